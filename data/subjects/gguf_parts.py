"""A GGUF model in several files, as llama-gguf-split writes them: found beside each other and read as one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import UserError

COUNT = "split.count"
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def parts_of(gguf: Path) -> list[Path]:
    """Every file of the model that `gguf` is a part of, in order; the file itself where it is whole.

    UserError: parts that do not lie beside it.
    """
    named = PART.fullmatch(gguf.name)
    if named is None:
        return [gguf]
    stem, _, count = named.groups()
    parts = [gguf.with_name(f"{stem}-{i:05d}-of-{count}.gguf") for i in range(1, int(count) + 1)]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise UserError(f"{gguf} is one of {len(parts)} parts, and {missing[0]} does not lie beside it: get it too")
    return parts


def write_whole(parts: list[Path], target: Path) -> Path:
    """One file with the first part's fields and the tensors of all; one tensor is read at a time."""
    from gguf import GGUFReader, GGUFWriter

    readers = [GGUFReader(part) for part in parts]
    fields = readers[0].fields
    writer = GGUFWriter(target, fields["general.architecture"].contents())
    for field in fields.values():
        if not field.name.startswith(("GGUF.", "split.")) and field.name != "general.architecture":
            writer.add_key_value(field.name, field.contents(), field.types[0], *field.types[1:][-1:])
    tensors: list[Any] = [tensor for reader in readers for tensor in reader.tensors]
    for one in tensors:
        writer.add_tensor_info(one.name, one.data.shape, one.data.dtype, one.data.nbytes, one.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for one in tensors:
        writer.write_tensor_data(one.data)
    writer.close()
    return target
