"""Train a bundled model: seeded, with a progress bar, and resumed where it was interrupted.

Source: the recipe is this project's own; the measures are those of "Hunting for Induction Heads
in Amazon's Chronos", part 2.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from interp.errors import DamagedFile, InvalidInput
from interp.results.files import write_text
from interp.zoo.architectures import ARCHITECTURES
from interp.zoo.recipe import Recipe, batch, learning_rate

CHECKPOINT = "checkpoint.safetensors"
RECORD = "training.json"


class _Steps(Dataset[tuple[Tensor, Tensor]]):
    """The batches of a recipe from some step on, so that a worker can prepare them ahead."""

    def __init__(self, recipe: Recipe, first: int) -> None:
        self.recipe, self.first = recipe, first

    def __len__(self) -> int:
        return self.recipe.steps - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return batch(self.recipe, self.first + index)


def snapshot_steps(recipe: Recipe, count: int = 20) -> list[int]:
    """Return about `count` log-spaced steps, the first and the last among them."""
    return [0, *np.unique(np.geomspace(min(50, recipe.steps), recipe.steps, count - 1).round().astype(int)).tolist()]


def _batches(recipe: Recipe, first: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    return iter(DataLoader(_Steps(recipe, first), batch_size=None, num_workers=workers))


def _save_whole(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata=metadata)
    partial.replace(path)


def _checkpoint(
    path: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    record: dict[str, Any],
) -> None:
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    tensors = {f"model.{name}": value.detach().contiguous() for name, value in model.named_parameters()}
    for index, moments in state.items():
        tensors |= {f"optimizer.{index}.{name}": value.contiguous() for name, value in moments.items()}
    _save_whole(tensors, path, {"record": json.dumps(record)})


def _resume(path: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer, recipe: Recipe) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            record = json.loads(file.metadata()["record"])
    except SafetensorError as error:
        raise DamagedFile(f"{path} cannot be read: {error}. Remove it to start anew.") from None
    if Recipe(**record["recipe"]) != recipe:
        raise InvalidInput(f"{path} was written by another recipe: {record['recipe']}. Choose another directory.")
    tensors = load_file(path)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(tensors[f"model.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return record


def _close(model: PreTrainedModel, recipe: Recipe) -> None:
    """Silence the late heads: with W_O at zero they write nothing and their q, k, v stay as drawn."""
    with torch.no_grad():
        for weight, late in ARCHITECTURES[recipe.architecture].late_heads(model, recipe):
            weight[late] = 0


def _keep_closed(model: PreTrainedModel, recipe: Recipe) -> None:
    for weight, late in ARCHITECTURES[recipe.architecture].late_heads(model, recipe):
        assert weight.grad is not None
        weight.grad[late] = 0


def train(
    recipe: Recipe,
    out: Path,
    *,
    device: str = "cpu",
    workers: int = 1,
    save_every: int = 500,
    progress: bool = True,
) -> Path:
    """Train a model by its recipe and write it as a Chronos checkpoint; nothing if it is there.

    Args:
        recipe: sizes, schedule, data and seed.
        out: the directory to write; a checkpoint in it is resumed.
        device: where to train.
        workers: processes that make data ahead; 0 makes them in this one.
        save_every: steps between checkpoints.

    Returns:
        `out`, with `config.json`, `model.safetensors` and `training.json`: the recipe, the loss,
        and at about 20 log-spaced steps the accuracy and the scores of heads on repeated random tokens.

    Raises:
        InvalidInput: what is in `out` belongs to another recipe, or `out` cannot be written.
        DamagedFile: the checkpoint in `out` is not whole.
    """
    if _is_done(out, recipe):
        return out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot write to {out}: {error.strerror}.") from None
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = ARCHITECTURES[recipe.architecture].build(recipe)
        cast(nn.Module, model).to(device)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=recipe.learning_rate,
            weight_decay=0.01,
            fused=True,
        )
        _close(model, recipe)
        record: dict[str, Any] = {"recipe": asdict(recipe), "step": 0, "seconds": 0.0, "snapshots": [], "losses": []}
        if (out / CHECKPOINT).exists():
            record = _resume(out / CHECKPOINT, model, optimizer, recipe)
        _loop(model, optimizer, recipe, record, out, workers, save_every, progress)

    model.eval().save_pretrained(out)
    if model.can_generate():
        model.generation_config.save_pretrained(out)
    del record["losses"]
    write_text(out / RECORD, json.dumps(record) + "\n")
    (out / CHECKPOINT).unlink(missing_ok=True)
    return out


def _is_done(out: Path, recipe: Recipe) -> bool:
    """Tell whether the very model is there already; one of another recipe is not trained over."""
    if not (out / RECORD).exists():
        return False
    recipe_there = Recipe.parse((out / RECORD).read_text(), {})
    if recipe_there != recipe:
        raise InvalidInput(f"{out} holds a model of another recipe: {recipe_there}. Choose another directory.")
    return (out / "model.safetensors").exists()


def _loop(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    record: dict[str, Any],
    out: Path,
    workers: int,
    save_every: int,
    progress: bool,
) -> None:
    moments, family = set(snapshot_steps(recipe)), ARCHITECTURES[recipe.architecture]
    start, before = time.monotonic(), record["seconds"]

    def look(step: int) -> None:
        if step in moments and not any(s["step"] == step for s in record["snapshots"]):
            loss = float(np.mean(record["losses"])) if record["losses"] else None
            model.eval()
            record["snapshots"].append({"step": step, "loss": loss, **family.snapshot(model)})
            model.train()

    model.train()
    look(record["step"])
    first = record["step"]
    bar = tqdm(total=recipe.steps, initial=first, disable=not progress, unit="step", desc="train")
    for step, (ids, labels) in enumerate(_batches(recipe, first, workers), start=first):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        device = model.device
        loss = family.loss(model, ids.to(device, non_blocking=True), labels.to(device, non_blocking=True))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if step < recipe.motif_steps:
            _keep_closed(model, recipe)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        record["losses"] = [*record["losses"][-99:], loss.item()]
        record["step"] = step + 1
        record["seconds"] = before + time.monotonic() - start
        look(step + 1)
        if (step + 1) % save_every == 0:
            _checkpoint(out / CHECKPOINT, model, optimizer, record)
            bar.set_postfix(loss=f"{loss.item():.3f}")
        bar.update()
    bar.close()
