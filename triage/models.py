"""What is stored. Names are the field's; facts that must agree carry a database constraint."""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now, Random
from django.utils import timezone
from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as _

from mlcore.protocols import ProtocolSpec


class Role(models.TextChoices):
    READER = "reader", _("reader")
    LEAD = "lead", _("lead")
    ADMIN = "admin", _("admin")


class Site(models.Model):
    """The tenancy border: whoever has no membership here is answered as if it did not exist."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=120)

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="memberships")
    site = models.ForeignKey(Site, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "site"], name="membership_once"),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="membership_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user} · {self.site} · {self.role}"


class Protocol(models.Model):
    """A screening question. The rows mirror ``mlcore.protocols.SHIPPED``; only the reading mode is set here."""

    class Reading(models.TextChoices):
        ASSISTED = "assisted", _("assisted: words tinted from the start")
        BLIND = "blind", _("blind: the model's view waits for the verdict")

    slug = models.SlugField(unique=True)
    language = models.CharField(max_length=5)
    labels = ArrayField(models.CharField(max_length=60))
    targets = ArrayField(models.CharField(max_length=60))
    critical = ArrayField(models.CharField(max_length=60))
    unit = models.CharField(max_length=10, choices=[("patient", _("patient")), ("note", _("note"))])
    cost_automatic = models.JSONField(help_text="K × K, rows the truth, columns the decided label")
    cost_defer = models.JSONField(help_text="K, the cost of deferring a case of each label")
    names = models.JSONField(help_text="language → label or «protocol» → name")
    reading = models.CharField(max_length=10, choices=Reading, default=Reading.ASSISTED)
    double_share = models.FloatField(
        db_default=0.0, help_text="share of cases that get a second reader: 0 none, 1 every one"
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(double_share__gte=0, double_share__lte=1), name="protocol_double_share_unit"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def spec(self) -> ProtocolSpec:
        return ProtocolSpec(
            slug=self.slug,
            language=self.language,
            labels=tuple(self.labels),
            targets=tuple(self.targets),
            critical=tuple(self.critical),
            unit=self.unit,
            cost_automatic=tuple(map(tuple, self.cost_automatic)),
            cost_defer=tuple(self.cost_defer),
            names=self.names,
        )

    @property
    def name(self) -> str:
        return self._names()["protocol"]

    @property
    def label_names(self) -> list[str]:
        """The labels in the reader's language, in the protocol's order."""
        return [self._names()[label] for label in self.labels]

    def _names(self) -> dict[str, str]:
        return self.names.get((get_language() or "es")[:2]) or self.names["en"]


class Patient(models.Model):
    site = models.ForeignKey(Site, models.PROTECT)
    pseudonym = models.CharField(max_length=128)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["site", "pseudonym"], name="patient_once_per_site")]

    def __str__(self) -> str:
        return self.pseudonym


class ImportRun(models.Model):
    """One delivery of a file: what landed, what was there already, what was refused and why."""

    site = models.ForeignKey(Site, models.PROTECT)
    protocol = models.ForeignKey(Protocol, models.PROTECT)
    file_name = models.CharField(max_length=200)
    file_sha256 = models.CharField(max_length=64)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True)
    at = models.DateTimeField(db_default=Now())
    lines = models.PositiveIntegerField(default=0)
    notes_new = models.PositiveIntegerField(default=0)
    notes_known = models.PositiveIntegerField(default=0)
    lines_rejected = models.PositiveIntegerField(default=0)
    labels_ignored = models.PositiveIntegerField(default=0)

    class Meta:
        indexes = [models.Index(fields=["site", "protocol", "-at"], name="import_recent")]


class ImportLine(models.Model):
    """A line of an import that did not land as a new note: refused, or known already."""

    class Kind(models.TextChoices):
        REJECTED = "rejected"
        DUPLICATE = "duplicate"

    run = models.ForeignKey(ImportRun, models.CASCADE, related_name="remarks")
    line = models.PositiveIntegerField()
    kind = models.CharField(max_length=10, choices=Kind)
    pseudonym = models.CharField(max_length=128, blank=True)
    reason = models.TextField(help_text="English message id; params fill it after translation")
    remedy = models.TextField(blank=True)
    params = models.JSONField(default=dict)

    class Meta:
        indexes = [models.Index(fields=["run", "kind", "line"], name="import_line_order")]


class Note(models.Model):
    """One note, exactly as written. The digest, not the text, is indexed."""

    patient = models.ForeignKey(Patient, models.PROTECT, related_name="notes")
    text = models.TextField()
    sha256 = models.CharField(max_length=64)
    written_at = models.DateField(null=True)
    specialty = models.CharField(max_length=80, blank=True)
    source_id = models.CharField(max_length=128, blank=True)
    run = models.ForeignKey(ImportRun, models.PROTECT, null=True)

    class Meta:
        ordering = [F("written_at").asc(nulls_last=True), "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["patient", "sha256", "written_at", "specialty", "source_id"],
                name="note_once",
                nulls_distinct=False,
            )
        ]


class Case(models.Model):
    """A patient, or one note, under a protocol. ``status`` is the work queue: Redis only wakes the workers."""

    class Status(models.TextChoices):
        PENDING = "pending", _("waiting to be scored")
        CLAIMED = "claimed", _("being scored")
        SCORED = "scored", _("scored")
        QUARANTINED = "quarantined", _("in quarantine")

    protocol = models.ForeignKey(Protocol, models.PROTECT)
    site = models.ForeignKey(Site, models.PROTECT)
    patient = models.ForeignKey(Patient, models.PROTECT)
    note = models.ForeignKey(Note, models.PROTECT, null=True)
    status = models.CharField(max_length=12, choices=Status, default=Status.PENDING)
    pending_since = models.DateTimeField(db_default=Now())
    claimed_at = models.DateTimeField(null=True)
    claim = models.BigIntegerField(null=True, help_text="advisory lock held by the worker that has the case")
    attempts = models.PositiveSmallIntegerField(default=0)
    failure = models.CharField(max_length=300, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["protocol", "patient", "note"], name="case_once", nulls_distinct=False
            ),
            models.CheckConstraint(
                condition=Q(status__in=["pending", "claimed", "scored", "quarantined"]), name="case_status"
            ),
            models.CheckConstraint(
                condition=Q(status="claimed", claim__isnull=False, claimed_at__isnull=False)
                | (~Q(status="claimed") & Q(claim__isnull=True)),
                name="case_claim_while_claimed",
            ),
        ]
        indexes = [
            models.Index(fields=["pending_since", "id"], name="case_waiting", condition=Q(status="pending")),
            models.Index(fields=["claimed_at"], name="case_claimed", condition=Q(status="claimed")),
            models.Index(fields=["site", "protocol", "status"], name="case_by_site"),
        ]

    def notes(self) -> models.QuerySet[Note]:
        """The notes the case is made of, in reading order (oldest first)."""
        return Note.objects.filter(pk=self.note_id) if self.note_id else self.patient.notes.all()


class Release(models.Model):
    """An installed bundle. At most one release of a protocol is active."""

    protocol = models.ForeignKey(Protocol, models.PROTECT)
    name = models.CharField(max_length=120)
    sha256 = models.CharField(max_length=64, unique=True)
    card = models.JSONField()
    active = models.BooleanField(default=False)
    installed_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["protocol"], condition=Q(active=True), name="release_one_active")
        ]

    def __str__(self) -> str:
        return self.name


class Calibration(models.Model):
    """The ranks a release is read against, for one site or (``site`` null) for all."""

    release = models.ForeignKey(Release, models.PROTECT)
    site = models.ForeignKey(Site, models.PROTECT, null=True)
    counts = ArrayField(models.PositiveIntegerField(), help_text="calibration cases of each label")
    typical_counts = ArrayField(
        models.PositiveIntegerField(), help_text="calibration distances of each label"
    )
    arrays = models.BinaryField(help_text="safetensors of mlcore.calibrate.Calibration")
    held_out = models.BinaryField(help_text="safetensors: the calibration cases read as if they were new")
    active = models.BooleanField(default=True)
    created_at = models.DateTimeField(db_default=Now())
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True)
    reason = models.TextField(blank=True)
    made_of = models.JSONField(
        default=dict, help_text="of one made from labels: cases, weights and effective size of each label"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["release", "site"],
                condition=Q(active=True),
                name="calibration_one_active",
                nulls_distinct=False,
            )
        ]


class WindowVector(models.Model):
    """An encoded window, kept so that a new note costs the encoder only its own windows."""

    release = models.ForeignKey(Release, models.CASCADE)
    note = models.ForeignKey(Note, models.CASCADE)
    start = models.PositiveIntegerField(help_text="first code point of the note's text")
    end = models.PositiveIntegerField(help_text="one past the last code point")
    vector = models.BinaryField(help_text="float32, little-endian")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["note", "release", "start"], name="window_once")]


QUEUE_ORDERS = {
    "wait": ["at"],
    "date": ["written_at"],
    "specialty": ["specialty", "-urgency"],
    "lot": ["lot"],
}


def _unit_interval(field: str) -> Q:
    return Q(**{f"{field}__gte": 0, f"{field}__lte": 1})


class Prediction(models.Model):
    """A case read by a release and a calibration over an exact set of notes. No α is baked in.

    ``current`` marks the one that stands: the active release over the notes as they are now.
    """

    case = models.ForeignKey(Case, models.CASCADE, related_name="predictions")
    site = models.ForeignKey(Site, models.PROTECT)
    protocol = models.ForeignKey(Protocol, models.PROTECT)
    release = models.ForeignKey(Release, models.PROTECT)
    calibration = models.ForeignKey(Calibration, models.PROTECT)
    note_ids = ArrayField(models.BigIntegerField())
    notes_sha256 = models.CharField(max_length=64)
    logits = ArrayField(models.FloatField())
    probabilities = ArrayField(models.FloatField())
    p_values = ArrayField(models.FloatField())
    distances = ArrayField(models.FloatField())
    label = models.PositiveSmallIntegerField()
    credibility = models.FloatField()
    runner_up = models.FloatField()
    typicality = models.FloatField()
    urgency = models.FloatField(
        help_text="expected cost of the case being passed over as the least severe label"
    )
    specialty = models.CharField(max_length=80, blank=True, db_default="", help_text="of the latest note")
    written_at = models.DateField(null=True, help_text="of the latest note")
    lot = models.FloatField(
        db_default=Random(),
        help_text="uniform in [0, 1), of the case and its exact notes: below the audit rate it is read blind",
    )
    current = models.BooleanField(default=False)
    labelled = models.BooleanField(
        db_default=False,
        help_text="its exact notes have a standing label; kept true by triggers (reviews 0003)",
    )
    at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(runner_up__gte=0, runner_up__lte=F("credibility"), credibility__lte=1),
                name="prediction_p_values_ordered",
            ),
            models.CheckConstraint(condition=_unit_interval("typicality"), name="prediction_typicality_unit"),
            models.UniqueConstraint(
                fields=["case", "release", "calibration", "notes_sha256"], name="prediction_once"
            ),
            models.UniqueConstraint(
                fields=["case"], condition=Q(current=True), name="prediction_one_current"
            ),
        ]
        indexes = [
            models.Index(
                fields=["site", "protocol", "credibility"],
                include=["label", "runner_up", "typicality"],
                condition=Q(current=True),
                name="prediction_dial",
            ),
            models.Index(
                fields=["site", "protocol", "at"], condition=Q(current=True), name="prediction_arrivals"
            ),
            models.Index(
                fields=["site", "protocol", "-urgency", "case"],
                include=["id", "credibility", "runner_up", "typicality", "notes_sha256", "lot"],
                condition=Q(current=True, labelled=False),
                name="prediction_queue",
            ),
            *(
                models.Index(
                    fields=["site", "protocol", *order, "case"],
                    condition=Q(current=True, labelled=False),
                    name=f"prediction_by_{name}",
                )
                for name, order in QUEUE_ORDERS.items()
            ),
        ]


class Tally(models.Model):
    """How many standing predictions have numbers in a step of ``triage.tally.EDGES``; rows add up, written by triggers."""

    site = models.ForeignKey(Site, models.CASCADE, db_constraint=False, db_index=False)
    protocol = models.ForeignKey(Protocol, models.CASCADE, db_constraint=False, db_index=False)
    step = models.SmallIntegerField(help_text="of a p-value: how many edges lie below it")
    typical = models.SmallIntegerField(help_text="of the typicality: how many edges lie below it")
    runner_up = models.BigIntegerField(help_text="predictions whose runner-up lies in the step")
    credibility = models.BigIntegerField(help_text="predictions whose credibility lies in the step")
    folded = models.BooleanField(db_default=False)

    class Meta:
        indexes = [
            models.Index(fields=["site", "protocol"], name="tally_of_workplace"),
            models.Index(fields=["site", "protocol"], condition=Q(folded=False), name="tally_added"),
        ]


def _none() -> models.Value:
    """An empty list, for rows made by SQL."""
    return models.Value([], models.JSONField())


class Explanation(models.Model):
    """What moved one prediction, by one method, and the work queue that prepares it. Offsets only, never text.

    Notes are indices into the prediction's ``note_ids``; start and end are code points of the stored text.
    """

    class Status(models.TextChoices):
        PENDING = "pending"
        CLAIMED = "claimed"
        READY = "ready"
        FAILED = "failed"

    class Method(models.TextChoices):
        MASK = "mask"
        DELETION = "deletion"
        GRADIENTS = "gradients"
        ABLATION = "ablation"

    class Priority(models.IntegerChoices):
        """Who waits for it; the smallest number is served first."""

        READER = 0
        DEFERRED = 1
        COHORT = 2

    DEFAULT = Method.DELETION  # the one prepared before anybody asks

    prediction = models.ForeignKey(Prediction, models.CASCADE, related_name="explanations")
    method = models.CharField(max_length=9, choices=Method, db_default=DEFAULT)
    priority = models.PositiveSmallIntegerField(choices=Priority, db_default=Priority.DEFERRED)
    status = models.CharField(max_length=8, choices=Status, default=Status.PENDING)
    asked_at = models.DateTimeField(db_default=Now())
    claimed_at = models.DateTimeField(null=True)
    claim = models.BigIntegerField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    failure = models.CharField(max_length=300, blank=True)
    words = models.JSONField(
        default=list,
        help_text="[{note, start, end, importance, margin, distance, sign}], most important first; distance may be null",
    )
    phrases = models.JSONField(
        db_default=_none(), help_text="[{note, start, end, words, margin, distance, sign, beyond}]"
    )
    windows = models.JSONField(default=list, help_text="[{note, start, end, weight}]")
    nearest = models.JSONField(
        db_default=_none(),
        help_text="calibration cases: [{label, given, distance}], nearest first in each label",
    )
    noise_floor = models.FloatField(null=True)
    attentions = models.BooleanField(
        db_default=True, help_text="false where the encoder gives none: occlusion alone chose the words"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["prediction", "method"], name="explanation_once"),
            models.CheckConstraint(
                condition=Q(method__in=["mask", "deletion", "gradients", "ablation"]),
                name="explanation_method_known",
            ),
        ]
        indexes = [
            models.Index(
                fields=["priority", "asked_at"],
                name="explanation_waiting",
                condition=Q(status__in=["pending", "claimed"]),
            )
        ]


class Baseline(models.Model):
    """What a release goes by in calibration: the weight of each word, of those alone that name nobody."""

    release = models.OneToOneField(Release, models.CASCADE, related_name="baseline")
    cases = models.PositiveIntegerField(help_text="calibration cases explained")
    words = models.JSONField(help_text="word → score of mlcore.cohort.aggregate")
    at = models.DateTimeField(db_default=Now())


class Dial(models.Model):
    """What a turn of the dial sets, and by whom and why."""

    class SecondOpinion(models.TextChoices):
        OFF = "off"
        ADVISE = "advise"
        SETTLE = "settle"

    site = models.ForeignKey(Site, models.PROTECT)
    protocol = models.ForeignKey(Protocol, models.PROTECT)
    alpha = models.FloatField()
    typicality_floor = models.FloatField()
    audit_rate = models.FloatField(db_default=0.0, help_text="share of automatic cases drawn to be read")
    second_opinion = models.CharField(
        max_length=10,
        choices=SecondOpinion,
        db_default=SecondOpinion.OFF,
        help_text="whether a second model may advise the reader of an ambiguous case, or settle it",
    )
    automate = models.BooleanField(
        db_default=True, help_text="off: automation is on hold, every case is read"
    )
    second_approver = models.BooleanField(
        db_default=False, help_text="the next turn needs another administrator besides its author"
    )
    hold_on_alarm = models.BooleanField(
        db_default=False, help_text="an alarm of the watch puts automation on hold by a turn of its own"
    )
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+")
    reason = models.TextField()
    at = models.DateTimeField(db_default=Now())

    class Meta:
        abstract = True


class Policy(Dial):
    """One turn of the dial. Never changed (a trigger refuses it): the next turn is the next version.

    In force is the latest version that has started. One that waits for its start is replaced by a later version that starts
    no later than it, and was then never in force; to postpone it, cancel it (a turn to what is in force) and schedule anew.
    """

    version = models.PositiveIntegerField()
    approver = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+")
    starts_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["site", "protocol", "version"], name="policy_version_once"),
            models.CheckConstraint(condition=~Q(approver=F("author")), name="policy_approver_is_another"),
            models.CheckConstraint(condition=Q(alpha__gt=0, alpha__lt=1), name="policy_alpha_open_unit"),
            models.CheckConstraint(
                condition=Q(typicality_floor__gte=0, typicality_floor__lt=1), name="policy_floor_unit"
            ),
            models.CheckConstraint(condition=_unit_interval("audit_rate"), name="policy_audit_rate_unit"),
            models.CheckConstraint(
                condition=Q(second_opinion__in=["off", "advise", "settle"]),
                name="policy_second_opinion_known",
            ),
        ]

    def __str__(self) -> str:
        return f"v{self.version} · α {self.alpha:g}"

    @property
    def waits(self) -> bool:
        """Whether its start has not come yet."""
        return self.starts_at > timezone.now()


class Proposal(Dial):
    """A turn that waits for a second administrator. Approved, it becomes the next version; one waits at a time."""

    base_version = models.PositiveIntegerField(help_text="the version it was proposed against")
    starts_at = models.DateTimeField(null=True, help_text="null: as soon as it is approved")
    closed_at = models.DateTimeField(null=True)
    closed_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+")
    remark = models.TextField(blank=True)
    policy = models.OneToOneField(Policy, models.PROTECT, null=True, help_text="the version it became")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["site", "protocol"], condition=Q(closed_at=None), name="proposal_one_open"
            ),
            models.CheckConstraint(
                condition=Q(policy=None) | ~Q(closed_by=F("author")), name="proposal_approved_by_another"
            ),
        ]


class Work(models.Model):
    """What a background worker claims, by ``triage.claims``."""

    class Status(models.TextChoices):
        PENDING = "pending"
        CLAIMED = "claimed"
        READY = "ready"
        FAILED = "failed"

    status = models.CharField(max_length=8, choices=Status, default=Status.PENDING)
    claimed_at = models.DateTimeField(null=True)
    claim = models.BigIntegerField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    failure = models.CharField(max_length=300, blank=True)

    class Meta:
        abstract = True


class Task(Work):
    """Long work asked for by a person: done by a worker, seen on the page of background work."""

    class Kind(models.TextChoices):
        TRAIN = "train", _("train a release from labels")
        RECALIBRATE = "recalibrate", _("recalibrate from labels")
        SHADOW = "shadow", _("score in shadow")
        PROMOTE = "promote", _("make a release the active one")
        COMPARE = "compare", _("compare releases")

    kind = models.CharField(max_length=12, choices=Kind)
    site = models.ForeignKey(Site, models.PROTECT, null=True, help_text="null: of every site")
    protocol = models.ForeignKey(Protocol, models.PROTECT)
    params = models.JSONField(default=dict, help_text="ids and settings; never text of a note")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True)
    asked_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)
    stop_asked = models.BooleanField(default=False)
    stage = models.CharField(max_length=200, blank=True, help_text="English message id of what it does now")
    done = models.PositiveBigIntegerField(default=0)
    total = models.PositiveBigIntegerField(default=0)
    log = ArrayField(models.TextField(), default=list, help_text="one line an event, its time first")
    result = models.JSONField(default=dict)

    class Meta:
        indexes = [
            models.Index(fields=["protocol", "-asked_at"], name="task_recent"),
            models.Index(
                fields=["asked_at"], condition=Q(status__in=["pending", "claimed"]), name="task_waiting"
            ),
        ]


class Watch(models.Model):
    """What the watch found in one week of a site and protocol: the last look at it."""

    site = models.ForeignKey(Site, models.CASCADE)
    protocol = models.ForeignKey(Protocol, models.CASCADE)
    release = models.ForeignKey(Release, models.CASCADE)
    week = models.DateField(help_text="its Monday")
    facts = models.JSONField(help_text="streams, checks and missed cases; figures only")
    at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["site", "protocol", "release", "week"], name="watch_once")
        ]


class Alarm(models.Model):
    """The watch found that what arrives is not what was calibrated for, or that automation misses too much."""

    class Kind(models.TextChoices):
        STREAM = "stream", _("the stream of cases changed")
        CHECK = "check", _("a week differs from calibration")
        MISSED = "missed", _("more cases are missed than α allows")

    site = models.ForeignKey(Site, models.CASCADE)
    protocol = models.ForeignKey(Protocol, models.CASCADE)
    release = models.ForeignKey(Release, models.CASCADE)
    kind = models.CharField(max_length=10, choices=Kind)
    measure = models.CharField(max_length=40, help_text="which stream, check or label")
    week = models.DateField(help_text="the Monday of the week it was raised for")
    facts = models.JSONField()
    at = models.DateTimeField(db_default=Now())
    held = models.ForeignKey(
        Policy, models.PROTECT, null=True, related_name="+", help_text="the hold it brought about"
    )
    seen_at = models.DateTimeField(null=True)
    seen_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+")
    remark = models.TextField(blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["site", "protocol", "release", "kind", "measure", "week"], name="alarm_once_a_week"
            )
        ]


class Token(models.Model):
    """A key to the API for one person at one site. The key itself is shown once; its digest is kept."""

    class Scope(models.TextChoices):
        IMPORT = "import", _("deliver notes")
        READ = "read", _("read the queue and its figures")
        EXPORT = "export", _("take labels out")

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="tokens")
    site = models.ForeignKey(Site, models.CASCADE)
    name = models.CharField(max_length=80)
    scopes = ArrayField(models.CharField(max_length=10, choices=Scope))
    digest = models.BinaryField(max_length=32, unique=True, help_text="SHA-256 of the key")
    start = models.CharField(max_length=12, help_text="first characters of the key, to tell it by")
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)


class AuditEvent(models.Model):
    """What was done or disclosed, by whom. Append-only and hash-chained by triggers (migration 0002)."""

    site = models.ForeignKey(Site, models.PROTECT, null=True)
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True)
    verb = models.CharField(max_length=40)
    object_type = models.CharField(max_length=40)
    object_id = models.CharField(max_length=64)
    details = models.JSONField(default=dict, help_text="figures and versions; never text of a note")
    at = models.DateTimeField(db_default=Now())
    previous = models.BinaryField(max_length=32, editable=False, default=b"")
    digest = models.BinaryField(max_length=32, editable=False, default=b"")

    class Meta:
        indexes = [
            models.Index(fields=["site", "-id"], name="audit_chain"),
            models.Index(fields=["site", "object_type", "object_id"], name="audit_object"),
        ]
