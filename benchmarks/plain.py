"""The four networks written the way they usually are, on the weights of this package's modules.

Channels-first data, layer norms composed of mean, variance and square root on a transposed copy,
queries and keys normalised over the whole picture, windows by roll and transposition. As forward
hooks would, `seen` collects the features on the way of a whole pass, in order of computation.
"""

import torch
import torch.nn.functional as F


def composed_norm(x, norm):
    """Layer norm over the last axis; without a bias, the mean stays in."""
    mean = x.mean(-1, keepdim=True)
    variance = x.var(-1, keepdim=True, unbiased=False)
    if getattr(norm, "bias", None) is None:
        return x / torch.sqrt(variance + norm.eps) * norm.weight
    return (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias


def norm_of_map(x, norm):
    tokens = composed_norm(x.flatten(2).transpose(1, 2), norm)
    return tokens.transpose(1, 2).reshape(x.shape)


def channel_norm(x, norm):
    """NAFNet's layer norm, over the channels of a channels-first map."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    x = (x - mean) / (variance + norm.eps).sqrt()
    return norm.weight.view(1, -1, 1, 1) * x + norm.bias.view(1, -1, 1, 1)


def naf_block(block, x):
    a, b = block.conv2(block.conv1(channel_norm(x, block.norm1))).chunk(2, dim=1)
    y = a * b
    y = y * block.sca[1](F.adaptive_avg_pool2d(y, 1))
    x = x + block.conv3(y) * block.beta
    a, b = block.conv4(channel_norm(x, block.norm2)).chunk(2, dim=1)
    return x + block.conv5(a * b) * block.gamma


def note(seen, feature):
    if seen is not None:
        seen.append(feature)
    return feature


def run(blocks, x, block_function):
    for block in blocks:
        x = block_function(block, x)
    return x


def nafnet(net, x, seen=None):
    y, skips = net.intro(x), []
    for encoder, down in zip(net.encoders, net.downs):
        y = run(encoder, y, naf_block)
        skips.append(y)
        y = down(y)
    y = run(net.middle_blks, y, naf_block)
    for up, decoder in zip(net.ups, net.decoders):
        y = run(decoder, up(y) + skips.pop(), naf_block)
        note(seen, y)
    return net.ending(y) + x


def transposed_attention(attn, x):
    b, c, h, w = x.shape
    q, k, v = attn.qkv_dwconv(attn.qkv(x)).chunk(3, dim=1)
    q, k, v = (t.reshape(b, attn.num_heads, -1, h * w) for t in (q, k, v))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    similarity = (q @ k.transpose(-2, -1)) * attn.temperature
    similarity = similarity.softmax(-1) if attn.activation == "softmax" else F.relu(similarity)
    return attn.project_out((similarity @ v).reshape(b, c, h, w))


def feed_forward(ffn, x):
    gate, value = ffn.dwconv(ffn.project_in(x)).chunk(2, dim=1)
    return ffn.project_out(F.gelu(gate) * value)


def transformer_block(block, x):
    x = x + transposed_attention(block.attn, norm_of_map(x, block.norm1["body"]))
    return x + feed_forward(block.ffn, norm_of_map(x, block.norm2["body"]))


def encode(net, x):
    encoded1 = run(net.encoder_level1, net.patch_embed(x), transformer_block)
    encoded2 = run(net.encoder_level2, net.down1_2(encoded1), transformer_block)
    encoded3 = run(net.encoder_level3, net.down2_3(encoded2), transformer_block)
    return encoded1, encoded2, encoded3, run(net.latent, net.down3_4(encoded3), transformer_block)


def restormer(net, x, seen=None):
    encoded1, encoded2, encoded3, y = encode(net, x)
    y = net.reduce_chan_level3(torch.cat([net.up4_3(y), encoded3], 1))
    y = note(seen, run(net.decoder_level3, y, transformer_block))
    y = net.reduce_chan_level2(torch.cat([net.up3_2(y), encoded2], 1))
    y = note(seen, run(net.decoder_level2, y, transformer_block))
    y = note(seen, run(net.decoder_level1, torch.cat([net.up2_1(y), encoded1], 1), transformer_block))
    return net.output(run(net.refinement, y, transformer_block)) + x


def prompt(generator, x):
    b, _, h, w = x.shape
    shares = F.softmax(generator.linear_layer(x.mean(dim=(-2, -1))), dim=1)
    mixed = shares[:, :, None, None, None] * generator.prompt_param.repeat(b, 1, 1, 1, 1)
    return generator.conv3x3(F.interpolate(mixed.sum(1), (h, w), mode="bilinear"))


def promptir(net, x, seen=None):
    encoded1, encoded2, encoded3, y = encode(net, x)
    y = torch.cat([y, prompt(net.prompt3, y)], 1)
    y = note(seen, net.reduce_noise_level3(transformer_block(net.noise_level3, y)))
    y = net.reduce_chan_level3(torch.cat([net.up4_3(y), encoded3], 1))
    y = run(net.decoder_level3, y, transformer_block)
    y = torch.cat([y, prompt(net.prompt2, y)], 1)
    y = note(seen, net.reduce_noise_level2(transformer_block(net.noise_level2, y)))
    y = net.reduce_chan_level2(torch.cat([net.up3_2(y), encoded2], 1))
    y = run(net.decoder_level2, y, transformer_block)
    y = torch.cat([y, prompt(net.prompt1, y)], 1)
    y = note(seen, net.reduce_noise_level1(transformer_block(net.noise_level1, y)))
    y = run(net.decoder_level1, torch.cat([net.up2_1(y), encoded1], 1), transformer_block)
    return net.output(run(net.refinement, y, transformer_block)) + x


def window_attention(attn, x):
    n, tokens, channels = x.shape
    qkv = attn.qkv(x).reshape(n, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv[0], qkv[1], qkv[2]
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
    return attn.proj((weights @ v).transpose(1, 2).reshape(n, tokens, channels))


def swin_layer(layer, x, height, width, size, shift):
    b, length, c = x.shape
    y = composed_norm(x, layer.norm1).view(b, height, width, c)
    if shift:
        y = torch.roll(y, (-shift, -shift), (1, 2))
    y = y.view(b, height // size, size, width // size, size, c).permute(0, 1, 3, 2, 4, 5)
    y = window_attention(layer.attn, y.reshape(-1, size * size, c))
    y = y.view(b, height // size, width // size, size, size, c).permute(0, 1, 3, 2, 4, 5).reshape(b, height, width, c)
    if shift:
        y = torch.roll(y, (shift, shift), (1, 2))
    x = x + y.reshape(b, length, c)
    return x + layer.mlp(composed_norm(x, layer.norm2))


def swinir(net, x, seen=None):
    """Without position bias and shift mask, as in DCPT."""
    b, _, height, width = x.shape
    size = net.size_multiple
    x = x - net.mean
    shallow = net.conv_first(x)
    y = composed_norm(shallow.flatten(2).transpose(1, 2), net.patch_embed["norm"])
    for stage in net.layers:
        z = y
        for index, layer in enumerate(stage.residual_group["blocks"]):
            z = swin_layer(layer, z, height, width, size, index % 2 * (size // 2))
        z = stage.conv(z.transpose(1, 2).reshape(b, -1, height, width))
        y = y + z.flatten(2).transpose(1, 2)
        if seen is not None:
            seen.append(y.transpose(1, 2).reshape(b, -1, height, width))
    y = composed_norm(y, net.norm).transpose(1, 2).reshape(b, -1, height, width)
    return x + net.conv_last(net.conv_after_body(y) + shallow) + net.mean


def normalized_conv(conv, x):
    x = F.conv2d(x, conv.weight, padding=conv.padding)
    return conv.norm(x) if isinstance(conv.norm, torch.nn.BatchNorm2d) else channel_norm(x, conv.norm)


def bottleneck(block, x):
    y = F.relu(normalized_conv(block.conv1, x))
    y = F.relu(normalized_conv(block.conv2, y))
    return F.relu(normalized_conv(block.conv3, y) + x)


def degradationclassifier(head, features):
    """Features finest first."""
    mixing, x = F.softmax(head.mixing_weights, dim=0), None
    for weight, feature, blocks, downsample in zip(mixing, features, head.bottleneck_layers, head.downsample_layers):
        if x is not None and feature.shape != x.shape:
            feature = F.interpolate(feature, size=x.shape[-2:], mode="nearest")
        x = weight * feature if x is None else weight * feature + x
        x = downsample(run(blocks, x, bottleneck))
    return head.fc(F.adaptive_avg_pool2d(run(head.last_stage, x, bottleneck), 1).flatten(1))
