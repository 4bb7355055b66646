"""The command line: `bin/laion-people`. Progress goes to stderr, results to stdout."""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import io
import json
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from include.models.errors import CodedError, ModelError
from include.models.profiles import Profile, load_profile
from laion_people import settings
from laion_people.engine.audit import audit
from laion_people.engine.catalog import FOLLOWERS, PARTITION_STAGES, RELEASE_STEPS, STAGES
from laion_people.engine.catalog import STEPS as CATALOG
from laion_people.engine.heartbeat import heartbeat
from laion_people.engine.runner import Runner
from laion_people.engine.stages import progress, stage_steps, unfinished
from laion_people.engine.step import ReleaseStep, Step
from laion_people.errors import (
    GO_ON,
    KEPT,
    LaionPeopleError,
    ShortageError,
    UsageError,
    check_shortage,
    coded,
    one_line,
)
from laion_people.publication import release
from laion_people.reports import drift, funnel
from laion_people.steps.cluster import audit as release_audit
from laion_people.steps.download.step import Download
from laion_people.steps.registry import STEPS
from laion_people.steps.subset_a import SubsetA
from laion_people.storage import metadata
from laion_people.storage.layout import PartitionKey, manifest_path
from laion_people.storage.manifest import FileEntry
from laion_people.storage.origin import made_elsewhere
from laion_people.storage.removals import request_path
from laion_people.storage.store import Store, open_store

log = logging.getLogger("laion_people")

RELEASE_STAGE = "cluster"  # of the audit: beside those of a partition
PROOF_STAGE = "removals"  # of the audit: beside those of steps
MOST_BITS = 16  # of 64, in which what looks alike may differ: what has nothing in common differs in half
MOST_IMAGES = 3000  # of a calibration: all people are compared with all captions


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0 done, 1 a step failed, 2 bad usage or configuration."""
    for stream in (sys.stdout, sys.stderr):  # a URL or a path may have letters that the terminal lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    args = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that temporary files are removed
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("laion_people").setLevel(logging.INFO)
    try:
        with heartbeat(log):
            code = int(args.command(args) or 0)
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        if args.debug:
            traceback.print_exception(error)
        return _complain(error)


def _complain(error: BaseException) -> int:
    """The last line of a command that fails: in a step where and how far it was, the reason, and what is to be done.

    Returns the exit code.
    """
    where, end = getattr(error, "__notes__", [])[-1:], ""  # noted by the runner
    try:
        check_shortage(error)
    except ShortageError as shortage:
        error = shortage
    match error:
        case CodedError():
            reason, remedy = coded(error.code, one_line(error.message)), f"{KEPT}: docs/operations.md has the remedy"
        case KeyboardInterrupt():
            reason, remedy = coded("stopped", "stopped"), GO_ON
        case _:  # what nobody foresaw is one line too
            reason, remedy = coded("unforeseen", one_line(f"{type(error).__name__}: {error}")), GO_ON
            end = " (--debug shows where)"
    advice = f"; {remedy}" if where else ""
    print(": ".join(["laion-people", *where, reason]) + advice + end, file=sys.stderr)
    return error.exit_code if isinstance(error, CodedError) else 1


def _run(args: argparse.Namespace) -> None:
    if args.retry_failed and args.step != "download":
        raise UsageError("bad-argument", "--retry-failed goes with download")
    if args.shards and isinstance(STEPS[args.step], ReleaseStep):
        raise UsageError("bad-argument", f"--shards does not go with {args.step}, which works on whole partitions")
    if len(args.partition) > 1 and isinstance(STEPS[args.step], Step):
        raise UsageError("bad-argument", f"{args.step} takes one partition; cluster and label take several")
    runner = _runner(args, _steps(args.retry_failed))
    step, partitions = args.step, metadata.known(runner.store, args.partition)
    if step == "download" and made_elsewhere(runner.store, partitions[0]):
        log.info("download %s: its images were made elsewhere, detect reads them as they are", partitions[0])
        _give(args, _result(runner.store, [], 0, 0))
        return
    if isinstance(runner.steps[step], ReleaseStep):
        release = runner.run_release(step, partitions, args.force)
        path = manifest_path(step, release.partition)
        _give(args, _result(runner.store, [_file(runner.store, path)], release.rows, len(partitions)))
        return
    made = runner.run(step, partitions[0], args.shards, args.force)
    if args.shards is None:
        files = [_file(runner.store, manifest_path(name, partitions[0])) for name in runner.steps_with(step)]
    else:
        sums = [runner.sum(name, partitions[0], args.shards) for name in runner.steps_with(step)]
        files = [shard.manifest for each in sums for shard in each.shards if shard.manifest]
    _give(args, _result(runner.store, files, made.rows, len(made.shards)))


def _pipeline(args: argparse.Namespace) -> None:
    runner = _runner(args)
    partitions = metadata.known(runner.store, args.partition)
    for partition in partitions:
        for step in stage_steps(runner.planner, partition, "extract"):
            if step not in FOLLOWERS:
                runner.run(step, partition, force=args.force)
    for step in RELEASE_STEPS:
        runner.run_release(step, partitions, args.force)
    for partition in partitions:
        for step in stage_steps(runner.planner, partition, "caption"):
            runner.run(step, partition, force=args.force)
    print(funnel.format_status(runner.store, partitions))


def _plan(args: argparse.Namespace) -> None:
    from laion_people.reports import capacity

    chosen = settings.from_environment(store=args.store, profile=args.profile)
    partitions = [PartitionKey.parse(p) for p in args.partition]
    planned = capacity.plan(open_store(chosen.store), partitions, chosen, args.rates)
    print(capacity.to_json(planned) if args.json else capacity.format_plan(planned))


def _status(args: argparse.Namespace) -> None:
    store = _store(args)
    partitions = metadata.known(store, [args.partition]) if args.partition else None
    flags = {key: lines for key, lines in drift.flags(store).items() if partitions is None or key in partitions}
    if args.json:
        print(json.dumps(funnel.status(store, partitions) | {"drift": flags}, indent=1))
    else:
        print("\n\n".join(filter(None, [funnel.format_status(store, partitions), "\n".join(_flag_lines(flags))])))


def _report(args: argparse.Namespace) -> None:
    from laion_people.reports.report import write_report

    print(write_report(_store(args), args.out))


def _calibrate(args: argparse.Namespace) -> None:
    from laion_people.reports import calibration

    if args.out and not args.out.absolute().parent.is_dir():
        raise UsageError("bad-argument", f"{args.out}: there is no such folder to write to")
    runner = _runner(args)
    partitions, profile = metadata.known(runner.store, args.partition), _profile(runner.settings)
    clips = [runner.model("clip")]
    if args.precision is None and (reference := _reference(runner.settings, profile)):
        clips.append(reference)
    current = runner.planner.step("subset_a").params(runner.settings)["threshold"]
    made = calibration.calibrate(runner.planner, partitions, args.images, clips, current, args.precision)
    if args.out:
        calibration.write_figure(made, args.out)
    threshold = made.threshold(profile) if made.found.is_known else None
    if args.json:
        print(calibration.to_json(made, threshold))
    else:
        print(calibration.to_text(made))
        if threshold:
            print(f"\nA profile keeps it by these lines:\n\n{calibration.to_yaml(threshold)}", end="")
    made.check()


def _reference(chosen: settings.Settings, profile: Profile) -> Any:
    """The CLIP that 0.3 is meant for; None where it is the profile's own. Raises UsageError when its weights are not
    there: they are not fetched for that."""
    reference = _profile(chosen, "standard", fetches=False)
    if reference.role("clip").checkpoints == profile.role("clip").checkpoints:
        return None
    try:
        return reference.load("clip")
    except ModelError as error:
        if error.code != "missing-weights":
            raise
        raise UsageError(
            "no-precision",
            "which precision? Without --precision it is that of 0.3 for OpenAI's ViT-B/32, whose weights are not "
            "there: give --precision 0.95, or run `bin/laion-people models fetch standard` first",
        ) from None


def _audit(args: argparse.Namespace) -> int:
    if args.stage == PROOF_STAGE:
        return _prove(args)
    if not args.partition:
        raise UsageError("bad-argument", f"the audit takes a partition; --stage {PROOF_STAGE} alone does without")
    runner = _runner(args)
    partitions = metadata.known(runner.store, args.partition)
    if args.stage == RELEASE_STAGE:
        audited = runner.settings.cluster_version or release_audit.newest_version(runner.store)
        steps: Sequence[str] = RELEASE_STEPS
        faults = release_audit.audit_release(runner, audited, args.deep)
    elif len(partitions) == 1:
        [audited] = partitions
        steps = stage_steps(runner.planner, audited, args.stage)
        faults = audit(runner, audited, args.stage, args.deep)
    else:
        raise UsageError("bad-argument", f"the audit takes one partition; --stage {RELEASE_STAGE} takes several")
    for fault in faults:
        print(f"laion-people: {fault}", file=sys.stderr)
    if faults:
        count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}, the first: {faults[0]}"
        advice = "clear the steps that the log names, with their downstream tasks"
        print(f"laion-people: audit {audited}: {count}; {advice}", file=sys.stderr)
        return 1
    if args.stage == "extract":
        _record_statistics(runner.store, audited)
    if args.stage != RELEASE_STAGE:
        _tell(runner.store, audited, args.stage)
    files = [_file(runner.store, manifest_path(step, audited)) for step in steps]
    _give(args, _result(runner.store, files, None, None))
    return 0


def _prove(args: argparse.Namespace) -> int:
    """Looks in every file for what was removed."""
    from laion_people.removal.proof import prove

    store = _store(args)
    partitions = metadata.known(store, args.partition) if args.partition else []
    proof = prove(store, partitions, _chosen(args).threads)
    for fault in proof.faults:
        print(f"laion-people: {fault}", file=sys.stderr)
    if proof.faults:
        count = f"{len(proof.faults)} fault{'s' if len(proof.faults) > 1 else ''}, the first: {proof.faults[0]}"
        print(f"laion-people: audit removals: {count}", file=sys.stderr)
        return 1
    print(f"nothing of {proof.removals} removals is found in {proof.files} files", file=sys.stderr)
    _give(args, {"removals": proof.removals, "files": proof.files})
    return 0


def _record_statistics(store: Store, partition: str) -> None:
    """Writes the numbers that drift is judged by."""
    try:
        drift.record(store, partition)
    except LaionPeopleError as error:  # which is no reason to fail a partition that is whole
        log.warning("drift %s: not known: %s", partition, error)


def _tell(store: Store, partition: str, stage: str) -> None:
    """Prints what a stage left: the funnel, and once a partition is extracted where it is unlike others."""
    print(funnel.format_funnel(funnel.partition_funnel(store, partition), partition), file=sys.stderr)
    if stage == "extract":
        for line in _flag_lines({partition: drift.flags(store).get(partition, [])}):
            print(line, file=sys.stderr)


def _flag_lines(flags: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"drift {partition}: {sentence}" for partition, sentences in flags.items() for sentence in sentences]


def _publish(args: argparse.Namespace) -> None:
    from laion_people.publication.build import check_names, publish
    from laion_people.publication.choice import Options

    if args.faces != "keep" and (args.edition == "geometry" or not args.pictures):
        raise UsageError("bad-argument", f"--faces {args.faces} goes with pictures, and there are none")
    chosen = _chosen(args)
    store = open_store(chosen.store)
    options = Options(
        edition=args.edition,
        pictures=args.pictures and args.edition != "geometry",
        faces=args.faces,
        with_minors=args.with_minors,
        nsfw=args.nsfw,
        opt_outs=args.opt_outs,
        max_watermark=args.max_watermark,
        licences=tuple(args.licence),
    )
    target = open_store(args.out) if args.out else store
    run_id = os.environ.get("AIRFLOW_CTX_DAG_RUN_ID", "")
    check_names(args.release, args.version)
    hub = made = None
    if args.push:
        from laion_people.publication.push import Hub

        hub = Hub(args.push)  # first: without a token nothing need be made
        made = release.read(target, args.release, args.version)
    if not made:
        made = publish(store, target, args.release, args.version, args.partition, options, chosen, run_id=run_id)
    pushed = {"pushed": hub.push(target, made)} if hub else {}
    folder = release.folder(made.name, made.version)
    record = f"{folder}/{release.RECORD}"
    summary = {
        "publication": f"{target.uri}/{folder}",
        "rows": {config: made.rows(config) for config in made.configs()},
        "left_out": made.left_out,
        "files": len(made.files),
        "bytes": sum(file.bytes for file in made.files),
    } | pushed
    _give(args, _result(target, [_file(target, record)], made.rows("people") or made.rows("poses"), None) | summary)


def _partitions(args: argparse.Namespace) -> None:
    _give(args, progress(_runner(args).planner))


def _shard_groups(args: argparse.Namespace) -> None:
    """Gives a list of groups of shards, as ``--shards`` takes them; with ``--unfinished`` also, by step, those of them
    that the step has to make, if any."""
    runner = _runner(args, _steps(args.retry_failed))
    (partition,) = metadata.known(runner.store, [args.partition])
    steps = stage_steps(runner.planner, partition, args.stage)
    if "metadata" in CATALOG[steps[0]].reads:  # hashed once, before the tasks that need it start side by side
        metadata.recorded(runner.store, partition)
    shards = runner.planner.planned(steps[0], partition)
    to_make: dict[str, list[int]] = {}
    if args.unfinished or args.skip_finished:
        to_make = unfinished(runner.planner, partition, args.stage)
        counts = ", ".join(f"{step} {len(indices)}" for step, indices in to_make.items() if indices)
        log.info("%s: %s", partition, f"shards to make: {counts}" if counts else "nothing to do: every shard is done")
    if args.unfinished:
        shards = sorted({index for indices in to_make.values() for index in indices})
    size = runner.settings.shards_per_task
    groups = [shards[i : i + size] for i in range(0, len(shards), size)]
    _give(
        args,
        [
            {"shards": _ranges(group)}
            | {step: _ranges(sorted(set(group) & set(indices))) for step, indices in to_make.items()}
            for group in groups
        ],
    )


def _remove(args: argparse.Namespace) -> None:
    """Prints what leaves, by table."""
    from laion_people.removal import remove, told
    from laion_people.removal.find import partitions_of

    store = _store(args)
    if args.list:
        print(told.listed(store))
        return
    if args.resume:
        for removal in remove.resume(store):
            print(told.done(removal))
        return
    names = _removed_names(args, store)
    if args.keep_out_near:
        names = dataclasses.replace(names, bits=args.bits, keep_out_near=True)
    if not args.reason or not args.reason.strip():
        raise UsageError("bad-argument", "--reason TEXT: a removal says why")
    partitions = metadata.known(store, args.partition) or partitions_of(store)
    by = one_line(args.by or _user(), 200)
    work = remove.plan_removal if args.dry_run else remove.remove
    plan = work(store, partitions, names, by, one_line(args.reason))
    told_to = sys.stderr if args.request else sys.stdout  # whose result is JSON
    print(told.planned(plan), file=told_to)
    if not args.dry_run:
        print(told.done(plan.removal), file=told_to)
    elif not args.request:  # whose log stays
        print(told.images(plan))
    if args.request:
        _give(args, {"removal": plan.removal.id, "dry_run": args.dry_run, "rows": plan.rows()})


def _removed_names(args: argparse.Namespace, store: Store) -> Any:
    from laion_people.removal import looks, names

    if args.request:
        if not store.exists(path := request_path(args.request)):
            raise UsageError(
                "bad-argument", f"there is no request {path}: in Airflow clear `ask`, with its downstream tasks"
            )
        with store.local(path) as file:
            return names.of_file(file)
    if args.file:
        return names.of_file(args.file)
    if args.near:
        return names.of_looks(looks.of_picture(args.near), args.bits)
    given = [(kind, value) for kind in names.KINDS if (value := getattr(args, kind)) is not None]
    if not given:
        raise UsageError(
            "bad-argument", "name what is to be removed: --url, --sha256, --sample, --person, --near or --file"
        )
    return names.of_value(*given[0])


def _request(text: str) -> str:
    if re.fullmatch("[0-9a-f]{1,64}", text):
        return text
    raise argparse.ArgumentTypeError(coded("bad-argument", f"{text!r} should be hex digits"))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # of a container whose user has no name
        return "unknown"


def _models(args: argparse.Namespace) -> int:
    from laion_people import weights

    chosen = settings.from_environment()
    cache = weights.cache_of(chosen, os.environ)
    if args.action == "list":
        print(weights.describe(load_profile(args.profile) if args.profile else None, cache))
        return 0
    profile = load_profile(args.profile or chosen.profile, cache=cache)
    if args.action == "fetch":
        weights.fetch(profile)
        return 0
    return 1 if weights.verify(profile) else 0


def _settings(args: argparse.Namespace) -> None:
    print(settings.describe(settings.from_environment()))


def _steps(retry_failed: bool) -> Mapping[str, Step | ReleaseStep]:
    return STEPS | {"download": Download(retry_failed=retry_failed)}


def _store(args: argparse.Namespace) -> Store:
    return open_store(settings.from_environment(store=args.store).store)


def _runner(args: argparse.Namespace, steps: Mapping[str, Step | ReleaseStep] = STEPS) -> Runner:
    chosen = _chosen(args)
    profile = _profile(chosen)
    if chosen.describe or getattr(args, "step", "") == "describe":
        captioner = profile.role("captioner")  # which it may lack: better said before hours of other steps
        if chosen.description_scorer == "vqa" and not captioner.params.get("question"):
            raise UsageError(
                "bad-profile",
                f"LAION_PEOPLE_DESCRIPTION_SCORER=vqa: the captioner of profile {profile.name} is asked nothing: take "
                "one with a question, such as vlm, or the scorer clip",
            )
    steps = {**steps, "subset_a": SubsetA(profile.threshold)}
    run_id = os.environ.get("AIRFLOW_CTX_DAG_RUN_ID", "")
    return Runner(open_store(chosen.store), chosen, profile, steps, run_id)


def _profile(chosen: settings.Settings, name: str = "", fetches: bool = True) -> Profile:
    """A profile by its name, by default the one chosen, on the machine as the settings have it."""
    from laion_people import weights

    return load_profile(
        name or chosen.profile,
        chosen.precision,
        device=chosen.device,
        threads=chosen.threads,
        cache=weights.cache_of(chosen, os.environ),
        fetches=fetches,
    )


def _chosen(args: argparse.Namespace) -> settings.Settings:
    """The settings, as far as the command's options do not say otherwise."""
    options = {"store": args.store, "profile": args.profile, "cluster_version": args.clusters}
    return settings.from_environment(**dict(args.set) | {k: v for k, v in options.items() if v is not None})


def _give(args: argparse.Namespace, result: object) -> None:
    """Prints a result, and leaves it in the file that a pod's task reads it from."""
    text = json.dumps(result)
    if args.result:
        unfinished = args.result.with_name(f".{args.result.name}")  # the reader may look at any time
        unfinished.write_text(text)
        unfinished.replace(args.result)
    print(text)


def _result(store: Store, manifests: Sequence[FileEntry], rows: int | None, shards: int | None) -> dict[str, object]:
    """What goes through XCom: which manifests were made, never data."""
    named = [{"uri": f"{store.uri}/{file.uri}", "sha256": file.sha256} for file in manifests]
    return {"manifests": named, "rows": rows, "shards": shards}


def _file(store: Store, path: str) -> FileEntry:
    return FileEntry(path, 0, store.sha256(path))


def _shards(text: str) -> list[int]:
    if not re.fullmatch(r"\d{1,9}(-\d{1,9})?(,\d{1,9}(-\d{1,9})?)*", text):
        raise argparse.ArgumentTypeError(coded("bad-argument", f"{text!r} should look like 0,3-5"))
    ranges = [part.partition("-") for part in text.split(",")]
    shards = [list(range(int(first), int(last or first) + 1)) for first, _, last in ranges]
    if not all(shards):
        raise argparse.ArgumentTypeError(
            coded("bad-argument", f"{text!r}: a range goes from the smaller to the larger number")
        )
    return [index for part in shards for index in part]


def _share(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(coded("bad-argument", f"{text!r} should be a number from 0 to 1"))


def _precision(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(coded("bad-argument", f"{text!r} should be a number between 0 and 1"))


def _images(text: str) -> int:
    if re.fullmatch(r"\d{1,4}", text) and 0 < int(text) <= MOST_IMAGES:
        return int(text)
    raise argparse.ArgumentTypeError(coded("bad-argument", f"{text!r} should be a number from 1 to {MOST_IMAGES}"))


def _bits(text: str) -> int:
    if re.fullmatch(r"\d{1,2}", text) and int(text) <= MOST_BITS:
        return int(text)
    raise argparse.ArgumentTypeError(coded("bad-argument", f"{text!r} should be a number from 0 to {MOST_BITS}"))


def _ranges(shards: Sequence[int]) -> str:
    """Ascending shards as ``--shards`` takes them: 0,3-5."""
    runs: list[list[int]] = []
    for shard in shards:
        if runs and shard == runs[-1][-1] + 1:
            runs[-1].append(shard)
        else:
            runs.append([shard])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _override(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in settings.NAMES:
        raise argparse.ArgumentTypeError(
            coded("bad-argument", f"{text!r} should look like threshold=0.28: `settings` lists the names")
        )
    return name, value


def _common() -> tuple[argparse.ArgumentParser, ...]:
    """Options that commands share: of all, of those that look into a store, that work on it, and that are tasks."""
    debug = argparse.ArgumentParser(add_help=False)
    debug.add_argument("--debug", action="store_true", help="show the traceback of an error")
    store = argparse.ArgumentParser(add_help=False, parents=[debug])
    store.add_argument("--store", metavar="URI", help="folder, file:///... or s3://bucket/prefix (LAION_PEOPLE_STORE)")
    work = argparse.ArgumentParser(add_help=False, parents=[store])
    work.add_argument("--profile", metavar="NAME", help="which models (LAION_PEOPLE_PROFILE)")
    work.add_argument("--clusters", metavar="VERSION", help="cluster version; default the newest")
    work.add_argument(
        "--set",
        type=_override,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another setting for this command alone, for example threshold=0.28; may be repeated",
    )
    task = argparse.ArgumentParser(add_help=False, parents=[work])
    task.add_argument("--result", type=Path, metavar="FILE", help="write the result to a file too")
    return debug, store, work, task


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="laion-people", description="Turns LAION partitions into a data set of people."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    debug, store, work, task = _common()

    def add(name: str, command: object, parent: argparse.ArgumentParser, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[parent], help=help, description=help[0].upper() + help[1:] + ".")
        sub.set_defaults(command=command)
        return sub

    run = add("run", _run, task, "run one step on a partition (cluster and label: on several)")
    run.add_argument("step", choices=list(STEPS), metavar="STEP", help=", ".join(STEPS))
    run.add_argument("partition", nargs="+", metavar="PARTITION", help="for example laion2B-en/00042")
    run.add_argument("--shards", type=_shards, metavar="LIST", help="only these shards, for example 0,3-5")
    run.add_argument("--force", action="store_true", help="make shards again that are done")
    run.add_argument("--retry-failed", action="store_true", help="download: only rows that may pass another time")
    pipeline = add("pipeline", _pipeline, work, "run every step in order, without Airflow")
    pipeline.add_argument("partition", nargs="+", metavar="PARTITION")
    pipeline.add_argument("--force", action="store_true", help="make shards again that are done")
    plan = add("plan", _plan, store, "tell what partitions will cost, before anything is launched")
    plan.add_argument("partition", nargs="+", metavar="PARTITION")
    plan.add_argument("--profile", metavar="NAME", help="which models (LAION_PEOPLE_PROFILE)")
    plan.add_argument("--rates", type=Path, metavar="FILE", help="measured rates, as `make bench` writes them")
    plan.add_argument("--json", action="store_true", help="for programs")
    status = add("status", _status, store, "show what is done, and what was lost where")
    status.add_argument("partition", nargs="?", metavar="PARTITION")
    status.add_argument("--json", action="store_true", help="for programs")
    report = add("report", _report, store, "write a self-contained HTML report")
    report.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    calibrate = add("calibrate", _calibrate, work, "find the threshold of Subset A that means for a CLIP what 0.3 does")
    calibrate.add_argument("partition", nargs="+", metavar="PARTITION", help="whose people and captions are compared")
    calibrate.add_argument(
        "--precision",
        type=_precision,
        metavar="SHARE",
        help="wanted, from 0 to 1; default that of 0.3 for OpenAI's ViT-B/32, whose weights must be there",
    )
    calibrate.add_argument(
        "--images", type=_images, default=1000, metavar="N", help="to look at, at most; default 1000"
    )
    calibrate.add_argument("-o", "--out", type=Path, metavar="FILE", help="draw both distributions as an SVG")
    calibrate.add_argument("--json", action="store_true", help="for programs")
    check = add("audit", _audit, task, "recount every shard of a partition, or the files of a cluster version")
    check.add_argument("partition", nargs="*", metavar="PARTITION", help=f"--stage {PROOF_STAGE}: default all")
    check.add_argument(
        "--stage",
        choices=(*STAGES, PROOF_STAGE),
        default="extract",
        help=f"{RELEASE_STAGE}: the newest cluster version, or that of --clusters, whatever the partitions; "
        f"{PROOF_STAGE}: look in every file for what was removed",
    )
    check.add_argument("--deep", action="store_true", help="read every byte, not only files that may have changed")
    out = add("publish", _publish, task, "make a publication: tables, card and pictures to be handed out")
    out.add_argument("partition", nargs="*", metavar="PARTITION", help="default all with captions of the clusters")
    out.add_argument("--release", required=True, metavar="NAME", help="what the data set is called")
    out.add_argument("--version", required=True, metavar="X.Y.Z", help="a new one: what is published never changes")
    out.add_argument(
        "--edition", choices=list(release.EDITIONS), default="links", help="geometry: without addresses and pictures"
    )
    out.add_argument("--no-pictures", dest="pictures", action="store_false", help="leave out the pictures of Subset B")
    out.add_argument("--faces", choices=("keep", "blur", "drop"), default="keep", help="what becomes of them in these")
    out.add_argument("--with-minors", action="store_true", help="keep images whose caption or flags speak of minors")
    out.add_argument("--nsfw", choices=("keep", "drop"), default="drop", help="images that the collection flags")
    out.add_argument("--opt-outs", choices=("keep", "drop"), default="drop", help="images that their owner reserves")
    out.add_argument("--max-watermark", type=_share, metavar="SHARE", help="leave out what is more likely to have one")
    out.add_argument(
        "--licence", action="append", default=[], metavar="TEXT", help="only images of this LICENSE; may be repeated"
    )
    out.add_argument(
        "-o", "--out", metavar="URI", help="another folder or bucket than the store; below releases/ there"
    )
    out.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="then send it to this data set of the Hugging Face hub; a version that exists is sent as it is",
    )
    add("partitions", _partitions, task, "list the metadata's partitions, extracted and pending, as JSON")
    groups = add("shard-groups", _shard_groups, task, "list a partition's shards in groups, as JSON, for mapped tasks")
    groups.add_argument("partition", metavar="PARTITION")
    groups.add_argument("--stage", choices=PARTITION_STAGES, default="extract")
    groups.add_argument("--unfinished", action="store_true", help="only shards that some step has to make")
    groups.add_argument("--skip-finished", action="store_true", help="all shards, and those that each step has to make")
    groups.add_argument("--retry-failed", action="store_true", help="shards with rows to retry count as unfinished")
    take_out = add("remove", _remove, store, "take images, with everybody in them, out of the store for good")
    take_out.add_argument("partition", nargs="*", metavar="PARTITION", help="where to look; default everywhere")
    what = take_out.add_mutually_exclusive_group()
    what.add_argument("--url", metavar="URL", help="an image by its address")
    what.add_argument("--sha256", metavar="H", help="by its body, as it was fetched")
    what.add_argument("--sample", metavar="ID", help="by COLLECTION/PART/SHARD/KEY, or the collection's own number")
    what.add_argument("--person", metavar="ID", help="the image that a person is in")
    what.add_argument("--near", type=Path, metavar="PICTURE", help="all pictures that look like this one")
    what.add_argument("--file", type=Path, metavar="LIST", help="names, one a line: `url http://...`, `sha256 ...`")
    what.add_argument("--request", type=_request, metavar="ID", help="names that a form of Airflow left in the store")
    what.add_argument("--resume", action="store_true", help="finish what a process that ended has begun")
    what.add_argument("--list", action="store_true", help="list the removals so far")
    take_out.add_argument(
        "--bits",
        type=_bits,
        default=6,
        metavar="N",
        help="how many of 64 bits may differ in what looks alike; default 6",
    )
    take_out.add_argument(
        "--keep-out-near", action="store_true", help="take out, and keep out, what looks like what is removed, too"
    )
    take_out.add_argument("--reason", metavar="TEXT", help="why; kept in the record")
    take_out.add_argument("--by", metavar="NAME", help="who asks for it; default the user's name")
    take_out.add_argument("--dry-run", action="store_true", help="tell what would leave, and leave it")
    take_out.add_argument("--result", type=Path, metavar="FILE", help="of --request: write the result to a file too")
    models = add("models", _models, debug, "list, fetch or verify the weights of models")
    models.add_argument("action", choices=("list", "fetch", "verify"), help="verify: exit code 1 if any is not right")
    models.add_argument(
        "profile", nargs="?", metavar="PROFILE", help="default: LAION_PEOPLE_PROFILE; for list everything known"
    )
    add("settings", _settings, debug, "list all settings, their values and meaning")
    return parser


if __name__ == "__main__":
    code = main()
    if code:  # libraries that speak up while the interpreter ends would take the last line from the reason
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    sys.exit(code)
