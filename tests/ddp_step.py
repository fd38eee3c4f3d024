"""One pre-training step under DistributedDataParallel, as a researcher's own loop does it; started by torchrun."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from dcpt import DegradationClassifier, create_backbone, dcpt_pretrain_step

torch.set_num_threads(1)
dist.init_process_group("gloo")
torch.manual_seed(0)
backbone = create_backbone("nafnet_test")
head = DegradationClassifier(backbone.feature_channels, 3)
lq, gt, label = torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])

dcpt_pretrain_step(backbone, head, lq, gt, label).loss.backward()
expected = [parameter.grad.clone() for parameter in (*backbone.parameters(), *head.parameters())]
backbone.zero_grad()
head.zero_grad()

mine = slice(dist.get_rank(), 4, 2)
pair = DistributedDataParallel(backbone), DistributedDataParallel(head)
for _ in range(2):  # a second step fails where the first left a parameter waiting for its gradient
    backbone.zero_grad()
    head.zero_grad()
    dcpt_pretrain_step(*pair, lq[mine], gt[mine], label[mine]).loss.backward()
for parameter, gradient in zip((*backbone.parameters(), *head.parameters()), expected, strict=True):
    torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)
dist.destroy_process_group()
