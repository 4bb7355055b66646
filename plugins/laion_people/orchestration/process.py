"""A task as a process on Airflow's own machine: what LAION_PEOPLE_RUNNER=process makes of the worker's command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout

from laion_people.errors import GO_ON, UsageError, coded
from laion_people.orchestration.commandline import CommandLineMixin

ROOT = Path(__file__).resolve().parents[3]
# A task that is killed outright can stop nothing: its next try would find the same shards being made.
DIES_WITH_TASK = ("setpriv", "--pdeathsig", "TERM")


class ProcessOperator(CommandLineMixin, BaseOperator):
    """Runs ``bin/laion-people`` in the worker's environment and returns the JSON that it prints last.

    ``fault`` is what is wrong with the settings: a task can say so, a DAG that cannot be parsed is only gone.

    Raises AirflowFailException, which is not retried, for bad usage; AirflowException with the command's last words
    when it fails.
    """

    def __init__(self, *, fault: str = "", **kwargs: Any):
        super().__init__(**kwargs)
        self.fault = fault
        self.process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> Any:
        if self.fault:
            raise AirflowFailException(self.fault)
        arguments = self.command_line()
        with tempfile.TemporaryFile("w+") as output:
            self.process = subprocess.Popen(
                [*DIES_WITH_TASK, ROOT / "bin" / "laion-people", *arguments],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                errors="backslashreplace",
                umask=int(os.environ.get("TASK_UMASK", "-1"), 8),  # bin/airflow-env closes Airflow's files, not these
            )
            last_words = ""
            try:
                for line in self.process.stderr or ():
                    last_words = line.rstrip()
                    self.log.info("%s", last_words)
                code = self.process.wait()
            except AirflowTaskTimeout:
                limit = f"not done within its time limit of {self.execution_timeout}"
                raise AirflowTaskTimeout(f"{coded('time-limit', f'{limit}: {last_words}')}; {GO_ON}") from None
            finally:
                self.on_kill()
            output.seek(0)
            lines = output.read().splitlines()
        if code < 0:  # it said nothing more
            killed = f"killed by {signal.Signals(-code).name}, most likely for lack of memory"
            raise AirflowException(f"{coded('out-of-memory', f'{killed}: {last_words}')}; {GO_ON}")
        if code:
            raise (AirflowFailException if code == UsageError.exit_code else AirflowException)(last_words)
        return json.loads(lines[-1])

    def on_kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
