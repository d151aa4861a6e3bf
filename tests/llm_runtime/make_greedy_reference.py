"""Write `greedy_reference.json`: greedy answers of transformers, float32, to more than 200 prompts.

    python -m llm_runtime.make_greedy_reference MODEL.gguf     (in tests/; takes minutes)

Each prompt is computed alone by `generate`. The long prompts are pages of our documentation as they were then.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers
from llm_runtime.llm_reference import PROMPTS, reference_model

from headrace_models.model_file import ModelFile
from headrace_models.tokenizer import ModelTokenizer

NEW_TOKENS = 12
REFERENCE = Path(__file__).with_name("greedy_reference.json")
DOCS = Path(__file__).parents[2] / "docs"
LONG = {"architecture.md": 4000, "concepts.md": 6000, "operations/diagnose.md": 2500, "operations/models.md": 3500}
"""Characters of each page."""
SUBJECTS = (
    *("a bicycle", "photosynthesis", "the French Revolution", "a binary search", "the heart", "inflation", "a volcano"),
    *("DNA", "a jet engine", "the water cycle", "chess", "an eclipse", "a vaccine", "the internet", "sourdough bread"),
    *("a black hole", "the stock market", "a sonnet", "evolution", "a battery", "the Roman Empire", "a compiler"),
)
FORMS = (
    "How does {} work?",
    "Write one sentence about {}.",
    "<|im_start|>user\nExplain {} briefly.<|im_end|>\n<|im_start|>assistant\n",
    "List three facts about {}:\n1.",
    "The most important thing about {} is",
    "Is {} dangerous? Answer yes or no:",
    "{} — définition :",
)


def main(model_path: Path) -> None:
    """Compute the answers."""
    prompts = [*PROMPTS, *(form.format(subject) for form in FORMS for subject in SUBJECTS)]
    prompts += [(DOCS / page).read_text()[:length] for page, length in LONG.items()]
    tokenizer, model = ModelTokenizer(ModelFile.open(model_path)), reference_model(model_path)
    torch.set_num_threads(1)
    answers = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer.encode(prompt)])
        made = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0)
        answers.append({"prompt": prompt, "answer": made[0, ids.shape[1] :].tolist()})
    how = (
        f"transformers {transformers.__version__}, float32, {model_path.name}, tests/llm_runtime/{Path(__file__).name}"
    )
    lines = ",\n".join(json.dumps(answer) for answer in answers)
    REFERENCE.write_text(f'{{"made_by": {json.dumps(how)}, "answers": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(Path(sys.argv[1]))
