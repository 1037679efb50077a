"""Lets Lightning's DeepSpeed strategy run on gloo ranks, which it refuses and DeepSpeed does not; for test_zero.py."""

import os
import sys

if os.environ.get("ZERO_ON_CPU") == "1" and "train.py" in " ".join(sys.orig_argv):
    import pytorch_lightning.strategies.deepspeed as lightning_deepspeed
    import torch
    from pytorch_lightning.accelerators import CPUAccelerator

    lightning_deepspeed.CUDAAccelerator = CPUAccelerator
    lightning_deepspeed._validate_device_index_selection = lambda devices: None
    lightning_deepspeed.DeepSpeedStrategy.root_device = property(lambda self: torch.device("cpu", 0))
