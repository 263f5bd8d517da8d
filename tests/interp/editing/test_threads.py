"""An edit belongs to the thread and task that entered it; experiments may run in several threads at once."""

import asyncio
import gc
import multiprocessing
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp import Batch, Knockout, Mean, Resample, Zero
from interp.editing import scopes
from interp.editing.context import check_unhooked
from interp.errors import InertEdit
from interp.models.checks import states
from tests.conftest import context, first_stack, other_tokens
from tests.experiments import experiments, numbers, same

THREADS, TIMES = 4, 8


@torch.no_grad()
def logits(model: interp.Model, batch: Batch) -> Tensor:
    return model.module(**model.inputs(batch)).logits


def in_threads(act: Callable[[int], Any], times: int = THREADS * TIMES) -> list[Any]:
    """What a function gives on 0, 1, ..., in four threads that begin at once."""
    start = threading.Barrier(THREADS)

    def work(index: int) -> Any:
        if index < THREADS:
            start.wait()
        return act(index)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, range(times)))


def hooks(model: interp.Model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules())


def four_edits(model: interp.Model, batch: Batch) -> list[Any]:
    """One of a kind each, at places that share points."""
    at = context(model)
    return [
        Zero(f"{at}.0"),
        Mean(f"{at}.1", batch),
        [Resample(f"{at}.2", other_tokens(batch)), Zero(f"{at}.0")],
        Knockout(f"{at}.0", key=-1),
    ]


def test_four_threads_each_ablate_their_own_head(either: interp.Model, either_batch: Batch) -> None:
    edits = four_edits(either, either_batch)
    clean, wanted = logits(either, either_batch), list[Tensor]()
    for edit in edits:
        with interp.edited(either, edit):
            wanted.append(logits(either, either_batch))
    assert all(not torch.equal(x, clean) for x in wanted)

    def act(index: int) -> bool:
        with interp.edited(either, edits[index % 4]):
            one = torch.equal(logits(either, either_batch), wanted[index % 4])
            with interp.ablate(either, f"{first_stack(either)}.self.0.1"):
                two = not torch.equal(logits(either, either_batch), wanted[index % 4])
        return one and two and torch.equal(logits(either, either_batch), clean)

    assert all(in_threads(act))
    assert hooks(either) == 0


def test_parallel_captures_are_those_of_one_thread(either: interp.Model, either_batch: Batch) -> None:
    names = [str(site) for site in either.sites()]
    whole, clean = interp.capture(either, either_batch, names), logits(either, either_batch)

    def act(index: int) -> bool:
        if index % 4 == 3:
            # A plain run beside traces of other threads.
            return torch.equal(logits(either, either_batch), clean)
        found = interp.capture(either, either_batch, names[index % 4 :: 3])
        return all(torch.equal(found[name], whole[name]) for name in found)

    assert all(in_threads(act))


def test_traces_of_ones_own_in_threads(either: interp.Model, either_batch: Batch) -> None:
    path = either.family.point(interp.Site("decoder", None, None, "ln_final")).path
    wanted = interp.capture(either, either_batch, "decoder.ln_final")["decoder.ln_final"]

    def act(index: int) -> bool:
        with torch.no_grad(), either.nnsight.trace(**either.inputs(either_batch)):
            read = either.envoy(path).output.save()
        return torch.equal(read, wanted)

    assert all(in_threads(act))


def test_experiments_of_all_kinds_side_by_side(either: interp.Model) -> None:
    """Sweeps that put hooks on, captures under edits, gradients and plain runs, of a model in training mode."""
    jobs = list(experiments(either).values())
    wanted = [numbers(job()) for job in jobs]
    either.module.train()
    assert all(in_threads(lambda index: same(numbers(jobs[index % len(jobs)]()), wanted[index % len(jobs)]), 46))
    assert all(module.training for module in either.module.modules())
    assert hooks(either) == 0
    assert not states._held
    assert not states._stances


def test_another_thread_sees_no_edit(either: interp.Model, either_batch: Batch) -> None:
    """Neither a plain forward nor a sweep, which would refuse one, of a thread that is started inside."""
    clean = logits(either, either_batch)
    with interp.ablate(either, context(either)):
        edited = logits(either, either_batch)
        with ThreadPoolExecutor(1) as pool:
            assert torch.equal(pool.submit(logits, either, either_batch).result(), clean)
            pool.submit(check_unhooked, either, "this").result()
        with pytest.raises(interp.errors.InvalidInput, match="unedited"):
            check_unhooked(either, "this")
        assert torch.equal(logits(either, either_batch), edited)


def test_what_ran_in_another_thread_does_not_count(either: interp.Model, either_batch: Batch) -> None:
    with pytest.raises(InertEdit), interp.ablate(either, context(either)), ThreadPoolExecutor(1) as pool:
        pool.submit(logits, either, either_batch).result()


def test_tasks_that_alternate(either: interp.Model, either_batch: Batch) -> None:
    """Each holds its edit across awaits at which the others run."""
    edits, clean = four_edits(either, either_batch), logits(either, either_batch)
    wanted = list[Tensor]()
    for edit in edits:
        with interp.edited(either, edit):
            wanted.append(logits(either, either_batch))

    async def work(index: int) -> bool:
        right = []
        for _ in range(3):
            with interp.edited(either, edits[index]):
                await asyncio.sleep(0)
                right.append(torch.equal(logits(either, either_batch), wanted[index]))
                await asyncio.sleep(0)
                right.append(torch.equal(logits(either, either_batch), wanted[index]))
            right.append(torch.equal(logits(either, either_batch), clean))
            await asyncio.sleep(0)
        return all(right)

    async def main() -> list[bool]:
        return await asyncio.gather(*(work(index) for index in range(4)))

    assert asyncio.run(main()) == [True] * 4
    assert torch.equal(logits(either, either_batch), clean)


def test_what_asyncio_starts_inside_sees_the_edit(either: interp.Model, either_batch: Batch) -> None:
    """A task and `to_thread` do while it lasts; a task that was started before does not, nor any after it is left."""
    clean = logits(either, either_batch)
    with interp.ablate(either, context(either)):
        edited = logits(either, either_batch)

    async def later(event: asyncio.Event) -> Tensor:
        await event.wait()
        return logits(either, either_batch)

    async def main() -> None:
        go, end = asyncio.Event(), asyncio.Event()
        before = asyncio.create_task(later(go))
        await asyncio.sleep(0)
        with interp.ablate(either, context(either)):
            inside, outlives = asyncio.create_task(later(go)), asyncio.create_task(later(end))
            go.set()
            assert torch.equal(await before, clean)
            assert torch.equal(await inside, edited)
            assert torch.equal(await asyncio.to_thread(logits, either, either_batch), edited)
        end.set()
        assert torch.equal(await outlives, clean)

    asyncio.run(main())
    assert hooks(either) == 0


def test_one_edit_in_several_threads_at_once(either: interp.Model) -> None:
    """What is running is known for each thread: rows and positions of one are not taken for another's."""
    series = [torch.sin(torch.arange(20.0) * (1 + i)) for i in range(3)]
    batches = [interp.Batch.from_series(either, series[: i + 1], num_decoder=3) for i in range(3)]
    heads = [f"{context(either)}.{i}" for i in range(2)]
    edits = [Resample(heads[0], batches[2].rows(torch.tensor([0]))), Knockout(heads[1], query=1, key=0)]
    wanted = list[Tensor]()
    for batch in batches:
        with interp.edited(either, edits):
            wanted.append(logits(either, batch))

    async def main() -> list[Tensor]:
        with interp.edited(either, edits):
            jobs = [asyncio.to_thread(logits, either, batches[i % 3]) for i in range(24)]
            return await asyncio.gather(*jobs)

    assert all(torch.equal(x, wanted[i % 3]) for i, x in enumerate(asyncio.run(main())))


@pytest.mark.parametrize("how", ["closed", "collected", "in another thread"])
def test_generators_that_hold_an_edit(either: interp.Model, either_batch: Batch, how: str) -> None:
    """The edit lasts while the generator is inside it, and goes with it, whoever ends it."""
    clean = logits(either, either_batch)

    def steps() -> Generator[Tensor]:
        with interp.ablate(either, context(either)):
            while True:
                yield logits(either, either_batch)

    held = steps()
    assert torch.equal(next(held), logits(either, either_batch))
    if how == "closed":
        held.close()
    elif how == "collected":
        del held
        gc.collect()
    else:
        thread = threading.Thread(target=held.close)
        thread.start()
        thread.join()
    assert torch.equal(logits(either, either_batch), clean)
    check_unhooked(either, "this")
    assert hooks(either) == 0
    assert not states._stances


def test_async_generators_that_hold_an_edit(either: interp.Model, either_batch: Batch) -> None:
    clean = logits(either, either_batch)

    async def steps() -> AsyncGenerator[Tensor]:
        with interp.ablate(either, context(either)):
            while True:
                yield logits(either, either_batch)
                await asyncio.sleep(0)

    async def use() -> Tensor:
        held = steps()
        first = await anext(held)
        await held.aclose()
        return first

    async def main() -> None:
        task = asyncio.create_task(use())
        assert not torch.equal(await task, clean)
        abandoned = steps()
        await asyncio.create_task(anext(abandoned))  # type: ignore[arg-type]
        assert torch.equal(logits(either, either_batch), clean)

    asyncio.run(main())
    assert torch.equal(logits(either, either_batch), clean)
    assert hooks(either) == 0


def test_opening_a_model_that_another_thread_runs(either: interp.Model, either_batch: Batch) -> None:
    """The check on opening makes scores NaN to see that they are used, in its own thread."""
    clean = logits(either, either_batch)

    def act(index: int) -> bool:
        if index % 2:
            interp.wrap(either.source)
            return True
        return torch.equal(logits(either, either_batch), clean)

    assert all(in_threads(act))


def test_a_forked_process_can_go_on(either: interp.Model, either_batch: Batch) -> None:
    """Also where another thread held the lock at that moment."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with scopes.lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    context_of = multiprocessing.get_context("fork")
    queue: Any = context_of.SimpleQueue()

    def child() -> None:
        torch.set_num_threads(1)  # OpenMP's other threads do not come along, and torch would wait for them
        queue.put(interp.capture(either, either_batch, "decoder.logits")["decoder.logits"].numpy())

    process = context_of.Process(target=child)
    process.start()
    done.set()
    thread.join()
    found = queue.get()
    process.join()
    assert np.array_equal(found, logits(either, either_batch).numpy())
