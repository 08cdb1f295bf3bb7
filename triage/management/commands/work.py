from __future__ import annotations

import logging
from argparse import ArgumentParser
from typing import Any

import django_rq

from mlcore.errors import ModelError
from triage import jobs, registry
from triage.management.command import SentenceCommand


class Command(SentenceCommand):
    help = "Runs a worker: scores waiting cases, prepares explanations, does long tasks. Refuses to start on a damaged release."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--queues",
            nargs="+",
            choices=jobs.QUEUES,
            default=jobs.QUEUES,
            help="encode: scoring; light: explanations, exports, webhooks; long: training and the like, one at a time",
        )
        parser.add_argument("--threads", type=int, default=1, help="torch threads of this process")

    def handle(self, *, queues: list[str], threads: int, **options: Any) -> None:
        from triage.worker import Worker

        if problems := registry.problems():
            raise ModelError(" ".join(problems))
        import torch

        torch.set_num_threads(threads)
        logging.getLogger("rq.worker").setLevel(logging.WARNING)
        jobs.reconcile()
        django_rq.get_worker(*queues, worker_class=Worker).work(logging_level="WARNING")
