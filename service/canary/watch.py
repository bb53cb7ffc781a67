"""The watcher: reads the figures, decides, prints the decision and makes the change; again and again, or once."""

import json
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from service.canary.options import Options
from service.canary.replicas import Away, Canary, Changed, Refused, Replicas
from service.canary.rules import Decision, decide


@dataclass
class Watcher:
    """Watches the canaries that options name."""

    options: Options
    replicas: Replicas = field(init=False)

    def __post_init__(self) -> None:
        options = self.options
        key = options.key.get_secret_value() if options.key else None
        self.replicas = Replicas(options.url, key, options.tries)

    def run(self) -> int:
        """Look again and again, or once with --once; then returns the exit status.

        0: all could be looked at; 1: a replica was away, behind the aliases, or refused.
        """
        while True:
            whole = self.look()
            if self.options.once:
                return 0 if whole else 1
            time.sleep(self.options.every_s)

    def look(self) -> bool:
        """Look at each canary and do what the rules say; returns whether all could be looked at."""
        whole = True
        try:
            names = list(self.options.adapter) or self.replicas.names(self.options.alias)
        except (Away, Refused) as error:
            self._say(decision="wait", reason=str(error))
            return False
        if not names:
            self._say(decision="wait", reason=f"no adapter shares questions out to an alias {self.options.alias!r}")
        for name in names:
            try:
                whole &= self._judge(name)
            except Changed:
                self._say(adapter=name, decision="wait", reason="its aliases were changed meanwhile: looked at again")
            except (Away, Refused) as error:
                self._say(adapter=name, decision="wait", reason=str(error))
                whole = False
        return whole

    def _judge(self, name: str) -> bool:
        canary = self.replicas.canary(name, self.options.alias)
        if canary is None:
            self._say(adapter=name, decision="wait", reason=f"{self.options.alias!r} has no share of its questions")
            return True
        decision = decide(canary.seen, self.options)
        changes, undo = self._changes(canary, decision)
        acts, tag = bool(changes) and not self.options.dry_run, canary.tag
        # Before it is done, so that the log has it though the watcher is killed.
        self._tell(canary, decision, acts, undo)
        for change in changes if acts else ():
            tag = self.replicas.change(name, change, tag)
        return canary.seen.away is None

    def _changes(self, canary: Canary, decision: Decision) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The changes that a decision makes, in order, and those that undo them."""
        share: dict[str, Any] = {"alias": self.options.alias, "weight": canary.weight}
        none = share | {"weight": 0.0}
        match decision.action:
            case "promote":
                moves = [{"alias": "stable", "version": canary.version}, none]
                return moves, [{"alias": "stable", "version": canary.stable}, share]
            case "roll back" | "finish":
                return [none], [share]
        return [], []

    def _tell(self, canary: Canary, decision: Decision, acts: bool, undo: list[dict[str, Any]]) -> None:
        told: dict[str, Any] = {
            "adapter": canary.adapter,
            "alias": self.options.alias,
            "decision": decision.action,
            "reason": decision.reason,
            "acts": acts,
            "canary": {"version": canary.version, "weight": canary.weight, **canary.seen.canary.told()},
            "stable": {"version": canary.stable, **canary.seen.stable.told()},
            "since": canary.since.isoformat() if canary.since else None,
            "evidence": decision.evidence,
        }
        if canary.seen.away:
            told["away"] = canary.seen.away
        if undo:
            told["undo"] = " && ".join(self.replicas.undo(canary.adapter, change) for change in undo)
        self._say(**told)

    def _say(self, **fields: Any) -> None:
        line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), **fields})
        print(line, flush=True)
        if self.options.log is not None:
            try:
                with self.options.log.open("a") as log:
                    log.write(line + "\n")
            except OSError as error:
                print(f"option log: {self.options.log} cannot be written: {error.strerror}", file=sys.stderr)
