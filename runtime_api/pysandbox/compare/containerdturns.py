"""The turns of a bench through containerd's API."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pysandbox.compare import handler
from pysandbox.compare.containerdtrial import Api
from pysandbox.compare.measure import Failed
from pysandbox.compare.roster import CHANCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pysandbox.compare.containerdtrial import Client
    from pysandbox.compare.handler import Handler
    from pysandbox.compare.request import Request
    from pysandbox.compare.result import Result
    from pysandbox.compare.roster import Roster
    from pysandbox.compare.trial import Trial


class ContainerdTurns:
    """Those who take part anyway, as containerd runs them."""

    def __init__(
        self, client: Client, request: Request, roster: Roster, result: Result,
        progress: Callable[[str, int, int], None],
    ) -> None:  # fmt: skip
        self._client, self.request, self.roster, self.result, self.progress = client, request, roster, result, progress

    def measure(self) -> None:
        """Take turns through containerd's API; who cannot run there is told with containerd's words."""
        with contextlib.ExitStack() as stack:
            apis = []
            for number, trial in enumerate(self.roster.containers()):
                label = trial.contender.name
                self.progress(f"through containerd: getting {label} ready", number, len(self.roster.trials))
                api = Api(self._client, label, f"{self._client.namespace}-{number}", trial.bundles)
                stack.callback(api.close)
                try:
                    how, first = api.prepare_any(self._handlers(trial))
                except (Failed, OSError) as error:
                    self.result.failed(label, "containerd", error)
                    continue
                apis.append(api)
                self.result.annotate(label, f"through containerd: {how}{first and f' ({first})'}")
            self._api_rounds(apis)

    def _handlers(self, trial: Trial) -> list[Handler]:
        """Return the ways in which containerd may run a contender. Raises Failed, OSError."""
        contender, place = trial.contender, trial.directory / "containerd"
        place.mkdir()
        if contender.server is None:
            return handler.runtime(contender.name, contender.command, place)
        return handler.ours(contender.name, self.request.config, place)

    def _api_rounds(self, apis: Sequence[Api]) -> None:
        for number in range(1, self.request.settings.rounds + 1):
            present = [each for each in apis if self.roster.has_turn(each.name, number)]
            turns = [(each.name, act) for each in present for act in (each.life, each.exec)]
            CHANCE.shuffle(turns)
            for label, act in turns:
                self.result.keep(label, "containerd", act, number)
            self.progress("through containerd", number, self.request.settings.rounds)
        for number in range(1, self.request.settings.memory_rounds + 1):
            for each in apis:
                self.result.keep(each.name, "api: memory", each.memory, number)
            self.progress("through containerd: memory", number, self.request.settings.memory_rounds)
