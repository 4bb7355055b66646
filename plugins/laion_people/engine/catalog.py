"""The steps and what is to be known of each, declared once; DAG files, pages and plans read it without any library.

A new step is one file under ``steps/``, with a class that takes its entry from here, and one entry::

    detect = STEPS["detect"]
    detect.reads, detect.writes        # {"images": ()}, "people"
    detect.resources("standard")       # what its pod asks for
    steps_of("extract")                # the entries of a stage, in the order of the work
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from laion_people.storage.layout import RELEASE_FILES

CLUSTERS, CAPTIONER = "clusters", "captioner"  # what tables can belong to, beside their partition
KINDS_OF_CAPTION = 3  # pose, face and head of each person


@dataclass(frozen=True, slots=True)
class Resources:
    """What a pod asks for.

    cpu: cores, and as many threads; there is no limit: a quota halts all threads of a pod for part of each 100 ms.
    memory: asked for, and the limit; what lies in shared memory counts. gpu: whole GPUs. shared_memory: size limit of
    /dev/shm; steps use threads and need none, a library that you add may. ephemeral_storage: asked for on the node's
    disk: shards in /tmp, and weights where no claim keeps them.
    """

    cpu: int = 1
    memory: str = "2Gi"
    gpu: int = 0
    shared_memory: str = "64Mi"
    ephemeral_storage: str = "4Gi"


SMALL, ON_CPU, ON_GPU = Resources(2, "8Gi"), Resources(4, "8Gi"), Resources(8, "24Gi", gpu=1)
LARGE_WEIGHTS = "10Gi"  # of the profiles large and vlm, whose weights are 5.5 GB each
# Of a model: the profile packaged runs on CPUs; the large ones hold larger batches of pixels.
OF_MODELS = {
    "": ON_GPU,
    "packaged": ON_CPU,
    "large": replace(ON_GPU, memory="32Gi", ephemeral_storage=LARGE_WEIGHTS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEntry:
    """A step.

    reads: ``metadata``, ``images`` (the tar), tables of ``schemas.SCHEMAS``, or release files; of a table the columns
    that it looks at (none: all).
    writes: its table; of a release step, which works on whole releases, the main file by its name in RELEASE_FILES.
    files: what it writes, for people.
    tar_key: of a step that writes a tar, the column that names the samples.
    scope: what its table belongs to beside the partition: a cluster version (CLUSTERS), or a captioner (CAPTIONER).

    roles: the models that it uses.
    pool: of Airflow (``gpu``, ``network``), if it waits for one.
    optional: the setting that turns it on.
    options: parameters of a run, beside ``force``, that its task takes.
    followed_by: steps that always follow on the same shards, in the same task.

    amount: what it reads a row of (rows, images, people, captions; of a step whose cost does not grow, its sample).
    written: what its table has a row for, where that is something else.
    aligned: its table has the people of `detect` in their order.
    uses: the column whose different values are the rows of the input that it used, where that is not one for each of
    its own rows.
    outcomes: its table has a row for each row of the input, with ``status`` and ``reason``.
    beside: how many small files lie beside its table or tar.

    pods: resources by profile, "" for all others.
    cleared: what clearing its task does.
    failures: a heading of docs/operations.md.
    remark: what else its user should know.
    """

    name: str
    summary: str
    stage: str
    reads: Mapping[str, tuple[str, ...]]
    writes: str
    files: tuple[str, ...] = ()
    is_release: bool = False
    tar_key: str = ""
    scope: str = ""
    roles: tuple[str, ...] = ()
    pool: str = ""
    optional: str = ""
    options: tuple[str, ...] = ()
    followed_by: tuple[str, ...] = ()
    amount: str = "people"
    written: str = ""
    aligned: bool = False
    uses: str = ""
    outcomes: bool = False
    beside: int = 0
    pods: Mapping[str, Resources] = field(default_factory=lambda: {"": Resources()})
    cleared: str
    failures: str
    remark: str = ""

    @property
    def first_input(self) -> str:
        """The input whose shards it makes shards of."""
        return next(iter(self.reads))

    @property
    def versioned(self) -> bool:
        """Whether it works with a cluster version."""
        return any(name in RELEASE_FILES or SCOPES.get(name) == CLUSTERS for name in (self.writes, *self.reads))

    @property
    def rows_per_person(self) -> int:
        """How many rows it counts for each person that it reads (or image, where it reads no people)."""
        return KINDS_OF_CAPTION if self.amount == "captions" else 1

    def resources(self, profile: str) -> Resources:
        """What its pod asks for."""
        return self.pods.get(profile, self.pods[""])


SHARDS_ONLY = "Clear it with its downstream tasks. Shards that are whole and up to date are left as they are."
ON_IMAGES, ON_CLUSTERS = "Images and people", "Clusters and captions"  # headings of docs/operations.md

OF_PEOPLE = ("person_id", "key", "bbox")  # what is needed to look at people in their images
OF_IMAGES = (  # what is known of an image, as its table has it
    "sha256", "original_width", "original_height", "phash", "NSFW", "LICENSE", "punsafe", "pwatermark", "x_robots_tag",
    "tdm_reservation", "robots_txt",
)  # fmt: skip
# What subsets say of a person's image.
OF_SUBSETS = ("sample_id", "url", "bbox", "image_width", "image_height", *OF_IMAGES)

_ENTRIES = (
    StepEntry(
        name="download",
        summary="fetches images over HTTP",
        stage="extract",
        reads={"metadata": ()},
        writes="images",
        tar_key="key",
        pool="network",
        options=("retry_failed",),
        amount="rows",
        written="images",
        beside=2,
        pods={"": Resources(2, "4Gi")},
        outcomes=True,
        cleared=SHARDS_ONLY
        + " The parameter `retry_failed_rows` fetches rows again that may pass another time, and no others.",
        failures="Shards and their inputs",
        remark="One request for each row. The pool `laion_people_network` limits how many of these tasks run at once.",
    ),
    StepEntry(
        name="detect",
        summary="finds every person's bounding box",
        stage="extract",
        reads={"images": ()},
        writes="people",
        roles=("detector",),
        pool="gpu",
        amount="images",
        written="people",
        aligned=True,
        pods=OF_MODELS,
        uses="key",
        cleared=SHARDS_ONLY,
        failures=ON_IMAGES,
    ),
    StepEntry(
        name="pose",
        summary="estimates every person's 2D body pose, and 3D landmarks where the model gives them",
        stage="extract",
        reads={"images": (), "people": OF_PEOPLE},
        writes="pose",
        roles=("pose",),
        pool="gpu",
        aligned=True,
        pods=OF_MODELS,
        cleared=SHARDS_ONLY,
        failures=ON_IMAGES,
    ),
    StepEntry(
        name="mesh",
        summary="fits a 478-point face mesh with blendshapes and head angles",
        stage="extract",
        reads={"images": (), "people": OF_PEOPLE, "pose": ("keypoints",)},
        writes="mesh",
        roles=("mesh",),
        followed_by=("facts",),
        aligned=True,
        pods={"": ON_CPU},
        cleared=SHARDS_ONLY + " When only the rules of facts have changed, the meshes stay.",
        failures=ON_IMAGES,
        remark="The facts of each person (the step `facts`) follow in the same task.",
    ),
    StepEntry(
        name="facts",
        summary="says in words what each person's own pose and face mesh show",
        stage="extract",
        reads={"people": (), "pose": (), "mesh": ()},
        writes="facts",
        aligned=True,
        cleared=SHARDS_ONLY,
        failures=ON_IMAGES,
    ),
    StepEntry(
        name="clip_filter",
        summary="CLIP similarity of each person's crop with the image's caption",
        stage="extract",
        reads={"images": (), "people": (*OF_PEOPLE, "caption")},
        writes="clip",
        roles=("clip",),
        pool="gpu",
        options=("threshold",),
        followed_by=("subset_a",),
        aligned=True,
        pods=OF_MODELS,
        cleared=SHARDS_ONLY + " With another `threshold` only Subset A is made again, without inference.",
        failures=ON_IMAGES,
        remark="Subset A (the step `subset_a`) follows in the same task.",
    ),
    StepEntry(
        name="subset_a",
        summary="keeps the people whose similarity is greater than the threshold",
        stage="extract",
        reads={"people": ("person_id", "caption", "bbox_score", *OF_SUBSETS), "clip": ()},
        writes="subset_a",
        written="kept",
        cleared=SHARDS_ONLY,
        failures=ON_IMAGES,
    ),
    StepEntry(
        name="cluster",
        summary="finds pose, face and head clusters on a sample of the release and freezes them as a version",
        stage="cluster",
        reads={"images": (), "people": ("key", "bbox"), "pose": (), "mesh": (), "facts": ("facts",)},
        writes="fit",
        files=("clusters/<version>/fit.json", "clusters/<version>/contact-*.jpg", "clusters/<version>/sheets.json"),
        is_release=True,
        amount="sampled",
        pods={"": Resources(4, "16Gi")},
        cleared="Clear it with its downstream tasks. The same people and parameters give the version that is there; "
        "others, or `force`, make a new one; no version is ever changed, but where a removal takes people off its "
        "sheets.",
        failures=ON_CLUSTERS,
        remark="Reads a sample (`LAION_PEOPLE_CLUSTER_SAMPLE` people): its cost does not grow with the release.",
    ),
    StepEntry(
        name="label",
        summary="writes captions of what each cluster's members share, keeping those that a person has edited",
        stage="cluster",
        reads={"fit": ()},
        writes="clusters",
        files=("clusters/<version>/captions.yaml", "clusters/<version>/clusters.parquet"),
        is_release=True,
        amount="",
        pods={"": SMALL},
        cleared="Clear it with its downstream tasks after captions were edited. What people have written is never "
        "overwritten.",
        failures=ON_CLUSTERS,
    ),
    StepEntry(
        name="assign",
        summary="finds the nearest pose, face and head cluster of every person",
        stage="caption",
        reads={"pose": (), "mesh": (), "fit": ()},
        writes="assignments",
        aligned=True,
        pods={"": SMALL},
        scope=CLUSTERS,
        cleared=SHARDS_ONLY,
        failures=ON_CLUSTERS,
    ),
    StepEntry(
        name="compose",
        summary="pastes people on person-free backgrounds, with captions about what they share",
        stage="caption",
        reads={
            "images": (),
            "people": (*OF_PEOPLE, "image_width", "image_height"),
            "pose": (),
            "mesh": (),
            "facts": ("facts",),
            "assignments": ("pose_cluster", "face_cluster", "head_cluster"),
            "fit": (),
        },
        writes="subset_b",
        tar_key="composite_id",
        roles=("bystanders", "matte"),
        beside=1,
        pods={"": SMALL},
        uses="people.person_id",
        scope=CLUSTERS,
        cleared=SHARDS_ONLY,
        failures=ON_CLUSTERS,
    ),
    StepEntry(
        name="embed",
        summary="CLIP vectors of each person and head, which captions are chosen by",
        stage="caption",
        reads={"images": (), "people": OF_PEOPLE, "mesh": ("face_landmarks",)},
        writes="vectors",
        roles=("clip",),
        pool="gpu",
        aligned=True,
        pods=OF_MODELS,
        cleared=SHARDS_ONLY + " Other clusters and other captions need no new vectors.",
        failures=ON_IMAGES,
    ),
    StepEntry(
        name="caption",
        summary="CLIP chooses each person's caption among the candidates of their clusters that are true of them",
        stage="caption",
        reads={
            "people": ("person_id", *OF_SUBSETS),
            "facts": (),
            "assignments": (),
            "vectors": ("body", "head", "clip_model"),
            "clusters": (),
        },
        writes="subset_c",
        roles=("clip",),
        amount="captions",
        pods={"": SMALL, "large": replace(SMALL, ephemeral_storage=LARGE_WEIGHTS)},
        scope=CLUSTERS,
        cleared=SHARDS_ONLY + " Edited captions are an input: they make Subset C again, from vectors, without images.",
        failures=ON_CLUSTERS,
    ),
    StepEntry(
        name="describe",
        summary="a captioner describes each person, CLIP keeps the best description that fits (experimental)",
        stage="caption",
        reads={"images": (), "people": ("person_id", "key", *OF_SUBSETS)},
        writes="subset_d",
        roles=("captioner", "clip"),
        pool="gpu",
        optional="describe",
        pods={
            "": Resources(4, "24Gi", gpu=1),
            "large": Resources(4, "48Gi", gpu=1, ephemeral_storage=LARGE_WEIGHTS),
            "vlm": Resources(4, "24Gi", gpu=1, ephemeral_storage=LARGE_WEIGHTS),
        },
        scope=CAPTIONER,
        cleared=SHARDS_ONLY,
        failures=ON_CLUSTERS,
        remark="Skipped unless `LAION_PEOPLE_DESCRIBE=1`. The slowest step by far; needs a profile with a captioner.",
    ),
)
STEPS = {entry.name: entry for entry in _ENTRIES}
SCOPES = {entry.writes: entry.scope for entry in _ENTRIES if entry.scope}  # by table
PARTITION_STEPS = tuple(entry.name for entry in _ENTRIES if not entry.is_release)
RELEASE_STEPS = tuple(entry.name for entry in _ENTRIES if entry.is_release)
STAGES = tuple(dict.fromkeys(entry.stage for entry in _ENTRIES))
PARTITION_STAGES = tuple(stage for stage in STAGES if not any(e.is_release for e in _ENTRIES if e.stage == stage))
FOLLOWERS = {name for entry in _ENTRIES for name in entry.followed_by}

# Tasks of the DAGs that run bin/laion-people and no step, and what their pods ask for.
TASKS: dict[str, Mapping[str, Resources]] = {
    "list_metadata": {"": Resources()},
    "count": {"": Resources()},
    "plan": {"": Resources()},
    "relabel": {"": SMALL},
    "publish": {"": Resources(4, "16Gi", ephemeral_storage="20Gi")},
    "remove": {"": Resources(4, "8Gi", ephemeral_storage="8Gi")},
    "audit": {
        "": Resources(1, "4Gi"),
        **dict.fromkeys(("large", "vlm"), Resources(1, "4Gi", ephemeral_storage=LARGE_WEIGHTS)),
    },
}


def steps_of(stage: str) -> tuple[StepEntry, ...]:
    """The entries of a stage, in the order of the work."""
    return tuple(entry for entry in _ENTRIES if entry.stage == stage)
