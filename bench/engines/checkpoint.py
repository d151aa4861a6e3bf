"""Exports the example's model as a directory for transformers and vLLM: `checkpoint.py FILE DIRECTORY`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import torch
from llm_runtime.llm_reference import reference_model
from transformers import PreTrainedTokenizerFast

from headrace_models.model_file import ModelFile
from headrace_models.tokenizer import ModelTokenizer


def export(file: Path, directory: Path) -> Path:
    """Write the model in bfloat16 with its tokenizer and chat template, unless it is there; return the directory."""
    mark = directory / "complete"
    if mark.exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    reference_model(file).to(torch.bfloat16).save_pretrained(directory)
    model = ModelFile.open(file)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # of the library
        tokenizer_object=ModelTokenizer(model)._tokenizer,  # noqa: SLF001 - the library's own object, to be saved
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    tokenizer.chat_template = model.chat_template
    tokenizer.save_pretrained(directory)
    mark.touch()
    return directory


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
