"""What we rely on in faust and mode without their promise. When one of these fails after an upgrade, read the place.

| relied on | where |
|---|---|
| the pinned versions | `pyproject.toml` |
| `BootStrategy.enable_kafka = False` starts agents and nothing of Faust's own Kafka | `streams/runtime/app.py` |
| `app.on_first_start` does nothing but make folders | `streams/runtime/app.py` |
| a channel's put hangs until `app.flow_control.resume()` | `streams/runtime/app.py` |
| `app.channel()`: put delivers the very object, in order, and waits when the buffer is full | `Reader` |
| what is put before an agent subscribed, or waits when the flow is resumed again, is dropped | `streams/worker.py` |
| an agent that raises is started again and its item is gone, unless `CrashingSupervisor` | `streams/runtime/app.py` |
| `Service.task`: an exception crashes; returning and `CancelledError` are silent | `streams/runtime/lasting.py` |
| `Service.add_future` is what starts tasks, timers and app tasks | `streams/runtime/lasting.py` |
| `Service.timer`: an exception crashes | `streams/runtime/reader.py` |
| a crash marks all parents and children, and ends `wait_until_stopped` | `streams/runtime/life.py` |
| `stop()` stops children backwards, cancels tasks, and swallows what a child raises | `streams/worker.py` |
| `add_runtime_dependency` starts a child of a service that runs | `streams/worker.py` |
| none of our private names hides one of theirs | all of `streams/runtime/` |
| faust works without aiohttp, as long as nothing of the web is used | `streams/runtime/app.py` |
"""

import ast
import asyncio
import inspect
import logging
import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faust
import mode
import pytest
from faust.app import BootStrategy
from faust.fixups import FIXUPS
from mode import Service

from streams.runtime.app import WorkerApp

ROOT = Path(__file__).parents[2]
RUNTIME = sorted((ROOT / "streams" / "runtime").glob("*.py"))
PUBLIC = {"_replace", "_asdict", "_exit", "_current_frames"}
"""Names that are documented although they begin so."""
PRIVATE_ELSEWHERE = {"connectors/secrets.py": "a secret's own class reads its reference"}
GIVEN = {"_abc_impl", "_tasks", "_abc_data"}
"""What Python and mode themselves put into each class."""


@pytest.fixture(scope="module", autouse=True)
def faust_has_looked_for_extensions() -> None:
    """At its first app Faust looks through the installed packages, which blocks; a worker makes it before its loop."""
    list(FIXUPS.iterate())


@asynccontextmanager
async def ended(app: WorkerApp) -> AsyncIterator[WorkerApp]:
    """Ends the app whatever happens: its agents answer a cancellation from outside by starting again."""
    try:
        yield app
    finally:
        await app.stop()
        app.consumer._thread.thread_loop.close()  # Faust makes a thread for the consumer that we never start


@pytest.fixture
async def app() -> AsyncIterator[WorkerApp]:
    async with ended(WorkerApp("contract")) as app:
        yield app


def pinned() -> dict[str, str]:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return dict(each.split("==") for each in dependencies if "==" in each)


@pytest.mark.parametrize("name", ["faust-streaming", "mode-streaming", "aiokafka"])
def test_the_libraries_whose_insides_we_know_are_pinned_to_the_version_that_is_tested_here(name: str) -> None:
    assert pinned()[name] == version(name)


def private_uses(path: Path) -> list[str]:
    """Private names of other objects that a module touches: `a._b` where `a` is not itself. Types (`_Element`) pass."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            owner = ast.unparse(node.value)
            if owner not in ("self", "cls") and node.attr not in PUBLIC:
                found.append(f"{owner}.{node.attr}")
    return found


def test_private_names_of_other_objects_are_touched_in_one_module_only() -> None:
    found = {
        str(path.relative_to(ROOT))
        for package in ("schemas", "connectors", "streams", "crossdock")
        for path in (ROOT / package).rglob("*.py")
        if private_uses(path)
    }
    assert found == {"streams/runtime/insides.py", *PRIVATE_ELSEWHERE}


def test_none_of_our_private_names_hides_one_of_a_foreign_class() -> None:
    """A method `_commit` of ours in a class of theirs that grows a `_commit` of its own would be called by it."""
    checked = 0
    for path in RUNTIME:
        module = import_module(f"streams.runtime.{path.stem}")
        for _, ours in inspect.getmembers(module, inspect.isclass):
            foreign = [base for base in ours.__mro__ if base.__module__.split(".")[0] in ("faust", "mode", "aiokafka")]
            if ours.__module__ != module.__name__ or not foreign:
                continue
            names = {name for name in vars(ours) if re.match(r"_[a-z]", name)} - GIVEN
            names |= set(re.findall(r"self\.(_(?!_)\w+)(?:: [^=\n]+)? = ", inspect.getsource(ours)))
            theirs = {name for base in foreign for name in (*vars(base), *getattr(base, "__annotations__", {}))}
            assert names & (theirs | set(vars(Service()))) == set(), ours
            checked += 1
    assert checked >= 5


def test_without_kafka_only_agents_are_started(app: WorkerApp) -> None:
    services = list(app.boot_strategy.server())
    assert [type(each).__name__ for each in services if "Monitor" not in type(each).__name__] == ["AgentManager"]
    with_kafka = [type(each).__name__ for each in BootStrategy(app).server()]
    assert {"Consumer", "Producer", "AgentManager"} <= set(with_kafka)


def test_the_first_start_of_an_app_makes_folders_and_nothing_else() -> None:
    body = inspect.getsource(faust.App.on_first_start).rpartition('"""')[2]
    assert body.split() == ["self._create_directories()"]


async def test_a_channel_takes_nothing_before_the_flow_is_resumed(app: WorkerApp) -> None:
    channel = app.channel()
    subscriber = aiter(channel)
    putting = asyncio.ensure_future(channel.put(object()))
    done, _ = await asyncio.wait({putting}, timeout=0.2)
    assert not done
    app.flow_control.resume()
    await asyncio.wait_for(putting, 5)
    assert subscriber.queue.qsize() == 1


async def test_a_channel_drops_what_is_put_before_anybody_subscribed_or_the_flow_was_resumed(app: WorkerApp) -> None:
    """So readers begin after the agents, and the flow is resumed once."""
    channel = app.channel()
    await channel.put("nobody")
    app.flow_control.resume()
    subscriber = aiter(channel)
    await channel.put("kept?")
    app.flow_control.resume()
    assert subscriber.empty()


async def test_an_agent_gets_the_very_objects_that_were_put_in_their_order(app: WorkerApp) -> None:
    channel, got, all_there = app.channel(), list[object](), asyncio.Event()
    items = [object() for _ in range(100)]

    async def agent(stream: AsyncIterable[object]) -> None:
        async for item in stream:
            got.append(item)
            if len(got) == len(items):
                all_there.set()

    app.agent(channel, name="a")(agent)
    await app.start()
    for item in items:
        await channel.put(item)
    await asyncio.wait_for(all_there.wait(), 5)
    assert all(mine is theirs for mine, theirs in zip(got, items, strict=True))


async def test_a_put_waits_while_the_buffer_of_a_channel_is_full(app: WorkerApp) -> None:
    channel = app.channel(maxsize=2)
    subscriber = aiter(channel)
    app.flow_control.resume()
    for _ in range(2):
        await channel.put(object())
    third = asyncio.ensure_future(channel.put(object()))
    done, _ = await asyncio.wait({third}, timeout=0.2)
    assert not done
    await anext(subscriber)
    await asyncio.wait_for(third, 5)
    assert aiter(app.channel()).queue.maxsize == app.conf.stream_buffer_maxsize


@pytest.mark.parametrize("supervisor", [mode.OneForOneSupervisor, mode.CrashingSupervisor])
async def test_an_agent_that_raises_is_started_again_without_its_item_unless_its_supervisor_crashes(
    supervisor: type[mode.SupervisorStrategy],
) -> None:
    async with ended(WorkerApp("supervised", agent_supervisor=supervisor)) as app:
        channel, got, third = app.channel(), list[int](), asyncio.Event()

        async def agent(stream: AsyncIterable[int]) -> None:
            async for item in stream:
                got.append(item)
                if item == 2:
                    raise ZeroDivisionError("a defect")
                if item == 3:
                    third.set()

        app.agent(channel, name="a")(agent)
        await app.start()
        for item in (1, 2, 3):
            await channel.put(item)
        await app.wait_first(third, timeout=20)
        assert app.crashed is (supervisor is mode.CrashingSupervisor)
        assert got == ([1, 2] if app.crashed else [1, 2, 3])
        assert WorkerApp("ours").conf.agent_supervisor is mode.CrashingSupervisor


class Child(Service):
    """Does what a test says."""

    def __init__(self, body: Callable[[], Any]) -> None:
        super().__init__()
        self.body, self.ended = body, asyncio.Event()

    @Service.task
    async def _work(self) -> None:
        try:
            await self.body()
        finally:
            self.ended.set()


class Ticking(Service):
    @Service.timer(0.01)
    async def _tick(self) -> None:
        raise ZeroDivisionError("a defect")


async def raising(error: BaseException) -> None:
    raise error


async def nothing() -> None:
    return


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), RecursionError("x"), MemoryError(), KeyboardInterrupt()])
async def test_a_task_that_raises_crashes_its_service(error: BaseException) -> None:
    child = Child(lambda: raising(error))
    await child.start()
    await asyncio.wait_for(child.wait_until_stopped(), 5)
    assert child.crashed
    assert child.crash_reason is error
    await child.stop()


@pytest.mark.parametrize("body", [nothing, lambda: raising(asyncio.CancelledError())])
async def test_a_task_that_returns_or_is_cancelled_from_inside_ends_silently(body: Callable[[], Any]) -> None:
    child = Child(body)
    await child.start()
    await asyncio.wait_for(child.ended.wait(), 5)
    await asyncio.sleep(0)
    assert not child.should_stop
    await child.stop()


async def test_a_timer_that_raises_crashes_its_service() -> None:
    ticking = Ticking()
    await ticking.start()
    await asyncio.wait_for(ticking.wait_until_stopped(), 5)
    assert isinstance(ticking.crash_reason, ZeroDivisionError)
    await ticking.stop()


async def test_tasks_timers_and_the_tasks_of_an_app_are_started_by_add_future(app: WorkerApp) -> None:
    started: list[str] = []

    class Watched(Ticking):
        def add_future(self, coro: Any) -> Any:
            started.append(coro.__qualname__)
            return super().add_future(coro)

    ticking = Watched()
    await ticking.start()
    assert len(started) == 1
    await ticking.stop()
    assert "self.add_future(task())" in inspect.getsource(faust.App.on_started_init_extra_tasks)


async def test_a_crash_reaches_the_whole_tree_and_wakes_who_waits_for_the_root() -> None:
    root, middle, leaf, other = (Child(lambda: asyncio.sleep(60)) for _ in range(4))
    await root.start()
    await root.add_runtime_dependency(middle)
    await middle.add_runtime_dependency(leaf)
    await root.add_runtime_dependency(other)
    assert leaf.started, "a child of a service that runs is started"
    waiting = asyncio.ensure_future(root.wait_until_stopped())
    error = ZeroDivisionError("a defect")
    await leaf.crash(error)
    await asyncio.wait_for(waiting, 5)
    assert [each.crashed for each in (root, middle, leaf, other)] == [True] * 4
    assert root.crash_reason is error
    await root.stop()


async def test_an_app_task_that_raises_crashes_the_app(app: WorkerApp) -> None:
    @app.task
    async def begin() -> None:
        raise ZeroDivisionError("a defect")

    await app.start()
    await asyncio.wait_for(app.wait_until_stopped(), 5)
    assert isinstance(app.crash_reason, ZeroDivisionError)


async def test_stop_goes_backwards_through_the_children_and_passes_over_one_that_raises(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped: list[int] = []

    class Numbered(Child):
        number = 0

        async def on_stop(self) -> None:
            stopped.append(self.number)
            if self.number == 2:
                raise ZeroDivisionError("a defect")

    root = Child(lambda: asyncio.sleep(60))
    await root.start()
    children = [Numbered(lambda: asyncio.sleep(60)) for _ in range(3)]
    for number, child in enumerate(children, 1):
        child.number = number
        await root.add_runtime_dependency(child)
    with caplog.at_level(logging.ERROR):
        await root.stop()
    assert stopped == [3, 2, 1]
    assert "Error while stopping child" in caplog.text
    assert children[0].ended.is_set(), "its task was cancelled"


def test_an_app_is_made_without_the_web_client_that_faust_would_load() -> None:
    """15 MB of a worker."""
    script = (
        "import asyncio, sys\n"
        "asyncio.set_event_loop(asyncio.new_event_loop())\n"
        "from streams.runtime.app import WorkerApp\n"
        "WorkerApp('small').agents\n"
        "print('aiohttp.client' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr
