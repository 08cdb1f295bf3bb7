"""The clinician's side: who holds a case, what they typed, what they decided, what the case finally is."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from triage.models import Alarm, Case, Note, Policy, Prediction, Protocol, Site, Work


class Why(models.TextChoices):
    """Why a reading gives no label. After «information» the case rests until new notes arrive or a lead returns it."""

    CONFLICTING = "conflicting", _("the notes contradict each other")
    INSUFFICIENT = "insufficient", _("too little is written")
    SPECIALTY = "specialty", _("another specialty must judge")
    OTHER = "other", _("another reason")
    INFORMATION = "information", _("more information is needed")


class Lease(models.Model):
    """A case in one reader's hands for a quarter of an hour."""

    case = models.OneToOneField(Case, models.CASCADE, related_name="lease")
    reader = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="leases")
    until = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["reader", "until"], name="lease_of_reader")]


class Draft(models.Model):
    """A verdict being written; survives a closed tab and an ended session."""

    case = models.ForeignKey(Case, models.CASCADE)
    reader = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    choice = models.CharField(
        max_length=60, blank=True, help_text="a label, «undecided», «information», or nothing yet"
    )
    why = models.CharField(max_length=12, choices=Why, blank=True, db_default="")
    cause = models.CharField(
        max_length=10,
        blank=True,
        db_default="",
        help_text="of a disagreement: a lead's drafts alone have one",
    )
    comment = models.TextField(blank=True)
    evidence = models.JSONField(
        default=list,
        help_text="[{note, start, end, label}] in code points of the note's text; label of the protocol, or empty",
    )
    saved_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["case", "reader"], name="draft_once")]


class Review(models.Model):
    """One reader's verdict on one prediction under the policy that was shown. Withdrawn, never deleted."""

    class Mode(models.TextChoices):
        ASSISTED = "assisted", _("assisted")
        BLIND = "blind", _("blind")
        ADJUDICATION = "adjudication", _("adjudication")

    case = models.ForeignKey(Case, models.PROTECT, related_name="reviews")
    prediction = models.ForeignKey(Prediction, models.PROTECT, related_name="reviews")
    policy = models.ForeignKey(Policy, models.PROTECT, related_name="reviews")
    reader = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="reviews")
    notes_sha256 = models.CharField(max_length=64, help_text="the exact notes the verdict was given on")
    client_key = models.UUIDField(help_text="drawn by the page; a second submit with it is the same review")
    label = models.PositiveSmallIntegerField(
        null=True, help_text="index in the protocol's labels; null = undecided"
    )
    why = models.CharField(max_length=12, choices=Why, blank=True, db_default="")
    double = models.BooleanField(
        db_default=False, help_text="drawn, as it was submitted, to be followed by a second reading"
    )
    comment = models.TextField(blank=True)
    evidence = models.JSONField(default=list)
    mode = models.CharField(max_length=12, choices=Mode)
    seconds = models.PositiveIntegerField(default=0, help_text="seconds the page was in view")
    at = models.DateTimeField(db_default=Now())
    withdrawn_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["reader", "client_key"], name="review_idempotent"),
            models.UniqueConstraint(
                fields=["prediction", "reader"], condition=Q(withdrawn_at=None), name="review_one_standing"
            ),
            models.CheckConstraint(condition=Q(label=None) ^ Q(why=""), name="review_label_or_why"),
        ]
        indexes = [
            models.Index(fields=["reader", "-at"], name="review_of_reader"),
            models.Index(
                fields=["reader", "case", "notes_sha256"],
                condition=Q(withdrawn_at=None),
                name="review_standing",
            ),
            models.Index(
                fields=["case", "notes_sha256"], condition=Q(withdrawn_at=None), name="review_of_case"
            ),
        ]


class Label(models.Model):
    """What a case finally is, where that came from, and how likely the case was to be read at all."""

    class Provenance(models.TextChoices):
        SINGLE = "single", _("single reader")
        AGREED = "agreed", _("two readers agreed")
        ADJUDICATED = "adjudicated", _("adjudicated")

    case = models.ForeignKey(Case, models.PROTECT, related_name="final_labels")
    review = models.OneToOneField(Review, models.PROTECT, related_name="final_label")
    notes_sha256 = models.CharField(max_length=64, help_text="the exact notes the label was given for")
    label = models.PositiveSmallIntegerField()
    provenance = models.CharField(max_length=12, choices=Provenance)
    propensity = models.FloatField(help_text="probability with which the policy sent the case to a reader")
    at = models.DateTimeField(db_default=Now())
    withdrawn_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["case", "notes_sha256"], condition=Q(withdrawn_at=None), name="label_one_standing"
            ),
            models.CheckConstraint(condition=Q(propensity__gt=0, propensity__lte=1), name="label_propensity"),
            models.CheckConstraint(
                condition=Q(provenance__in=["single", "agreed", "adjudicated"]), name="label_provenance"
            ),
        ]
        indexes = [models.Index(F("at").desc(), name="label_recent")]


class Adjudication(models.Model):
    """Readings of a case that disagree, before a lead. Closed without a review: dissolved, a reading was taken back."""

    class Cause(models.TextChoices):
        OVERLOOKED = "overlooked", _("one reader overlooked something")
        CRITERIA = "criteria", _("the criteria leave it open")
        RECORD = "record", _("the record contradicts itself")
        SLIP = "slip", _("a slip of the hand")
        OTHER = "other", _("another cause")

    case = models.ForeignKey(Case, models.PROTECT, related_name="adjudications")
    prediction = models.ForeignKey(Prediction, models.PROTECT, related_name="adjudications")
    notes_sha256 = models.CharField(max_length=64)
    opened_at = models.DateTimeField(db_default=Now())
    closed_at = models.DateTimeField(null=True)
    cause = models.CharField(max_length=10, choices=Cause, blank=True)
    review = models.OneToOneField(
        Review, models.PROTECT, null=True, related_name="adjudication", help_text="the lead's own"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["case", "notes_sha256"], condition=Q(closed_at=None), name="adjudication_one_open"
            ),
            models.CheckConstraint(
                condition=Q(review=None) | Q(closed_at__isnull=False) & ~Q(cause=""),
                name="adjudication_closed_with_cause",
            ),
        ]


class Comment(models.Model):
    """What readers say to each other about a case, or about a passage of one of its notes."""

    case = models.ForeignKey(Case, models.CASCADE, related_name="comments")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="comments")
    text = models.TextField()
    note = models.ForeignKey(Note, models.CASCADE, null=True)
    start = models.PositiveIntegerField(null=True, help_text="first code point of the passage")
    end = models.PositiveIntegerField(null=True, help_text="one past its last code point")
    at = models.DateTimeField(db_default=Now())
    withdrawn_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(note=None, start=None, end=None) | Q(note__isnull=False, start__lt=F("end")),
                name="comment_passage_whole",
            )
        ]
        indexes = [models.Index(fields=["case", "at"], name="comment_thread")]


class Skip(models.Model):
    """A case a reader passed over: «next» offers it to them again only when nothing else waits."""

    case = models.ForeignKey(Case, models.CASCADE)
    reader = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["reader", "case"], name="skip_once")]


class SavedView(models.Model):
    """A reader's filters and order of the queue, under a name; the query is that of the address."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="saved_views")
    site = models.ForeignKey(Site, models.CASCADE)
    protocol = models.ForeignKey(Protocol, models.CASCADE)
    name = models.CharField(max_length=60)
    query = models.CharField(max_length=500)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "site", "protocol", "name"], name="saved_view_once")
        ]


class ExportRun(Work):
    """An export asked for: written by a worker, fetched by who asked, removed when it expires."""

    site = models.ForeignKey(Site, models.PROTECT)
    protocol = models.ForeignKey(Protocol, models.PROTECT)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT)
    form = models.CharField(max_length=10)
    with_notes = models.BooleanField(default=False)
    asked_at = models.DateTimeField(db_default=Now())
    total = models.PositiveIntegerField(default=0, help_text="labels when it began")
    rows = models.PositiveIntegerField(default=0, help_text="written so far")
    size = models.PositiveBigIntegerField(default=0, help_text="bytes")
    sha256 = models.CharField(max_length=64, blank=True)
    ready_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["site", "protocol", "-asked_at"], name="export_recent"),
            models.Index(
                fields=["asked_at"], condition=Q(status__in=["pending", "claimed"]), name="export_waiting"
            ),
        ]


class Webhook(models.Model):
    """Where an administrator wants standing labels told: ids and labels, never text. Off until switched on."""

    site = models.ForeignKey(Site, models.CASCADE)
    protocol = models.ForeignKey(Protocol, models.CASCADE)
    url = models.URLField(max_length=500)
    secret = models.CharField(max_length=64, help_text="signs each delivery (HMAC-SHA256)")
    active = models.BooleanField(default=False)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT)
    created_at = models.DateTimeField(db_default=Now())


class Delivery(Work):
    """One label, or one alarm of the watch, to be told to one webhook; tried again, later each time."""

    webhook = models.ForeignKey(Webhook, models.CASCADE, related_name="deliveries")
    label = models.ForeignKey(Label, models.CASCADE, null=True)
    alarm = models.ForeignKey(Alarm, models.CASCADE, null=True)
    event = models.CharField(
        max_length=10, choices=[("given", "given"), ("withdrawn", "withdrawn"), ("alarm", "alarm")]
    )
    tries = models.PositiveSmallIntegerField(default=0)
    due_at = models.DateTimeField(db_default=Now())
    answer = models.PositiveSmallIntegerField(null=True, help_text="last HTTP status")
    at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["webhook", "label", "event"], name="delivery_once"),
            models.UniqueConstraint(fields=["webhook", "alarm"], name="delivery_of_alarm_once"),
            models.CheckConstraint(
                condition=Q(event="alarm", label=None, alarm__isnull=False)
                | (~Q(event="alarm") & Q(label__isnull=False, alarm=None)),
                name="delivery_label_or_alarm",
            ),
        ]
        indexes = [
            models.Index(
                fields=["due_at"], condition=Q(status__in=["pending", "claimed"]), name="delivery_due"
            )
        ]
