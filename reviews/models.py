"""The clinician's side: who holds a case, what they typed, what they decided, what the case finally is."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from triage.models import Case, Policy, Prediction


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
    choice = models.CharField(max_length=60, blank=True, help_text="a label, «undecided», or nothing yet")
    comment = models.TextField(blank=True)
    evidence = models.JSONField(
        default=list, help_text="[{note, start, end}] in code points of the note's text"
    )
    saved_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["case", "reader"], name="draft_once")]


class Review(models.Model):
    """One reader's verdict on one prediction under the policy that was shown. Withdrawn, never deleted."""

    class Mode(models.TextChoices):
        ASSISTED = "assisted", _("assisted")
        BLIND = "blind", _("blind")

    case = models.ForeignKey(Case, models.PROTECT, related_name="reviews")
    prediction = models.ForeignKey(Prediction, models.PROTECT, related_name="reviews")
    policy = models.ForeignKey(Policy, models.PROTECT, related_name="reviews")
    reader = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="reviews")
    notes_sha256 = models.CharField(max_length=64, help_text="the exact notes the verdict was given on")
    client_key = models.UUIDField(help_text="drawn by the page; a second submit with it is the same review")
    label = models.PositiveSmallIntegerField(
        null=True, help_text="index in the protocol's labels; null = undecided"
    )
    comment = models.TextField(blank=True)
    evidence = models.JSONField(default=list)
    mode = models.CharField(max_length=10, choices=Mode)
    seconds = models.PositiveIntegerField(default=0, help_text="seconds the page was in view")
    at = models.DateTimeField(db_default=Now())
    withdrawn_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["reader", "client_key"], name="review_idempotent"),
            models.UniqueConstraint(
                fields=["prediction", "reader"], condition=Q(withdrawn_at=None), name="review_one_standing"
            ),
        ]
        indexes = [
            models.Index(fields=["reader", "-at"], name="review_of_reader"),
            models.Index(
                fields=["reader", "case", "notes_sha256"],
                condition=Q(withdrawn_at=None),
                name="review_standing",
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
