"""/admin/: sites, memberships and users, for superusers, and a look at the protocols. No patient, no trail is here.

Every change goes through one of Django's three ``log_…`` calls, so the audit event is made there, in its transaction.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.admin import UserAdmin
from django.db.models import Model
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from triage import audit
from triage.models import Membership, Protocol, Site

TAKEN = {"admin", "healthz", "i18n", "login", "logout", "readyz", "static"}

for _model in list(
    admin.site._registry
):  # groups, RQ's board, sign-in attempts: nothing that changes unrecorded
    admin.site.unregister(_model)


class Recorded(admin.ModelAdmin):
    """Superusers only; each change is an audit event holding ``facts`` as they are after it."""

    facts: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    removable = False

    def has_module_permission(self, request: HttpRequest) -> bool:
        return request.user.is_superuser

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.is_superuser

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.is_superuser

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return request.user.is_superuser

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self.removable and request.user.is_superuser

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """What says whose a thing is stays as it was made."""
        return self.fixed if obj else ()

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record(request, obj, "add", message)
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record(request, obj, "change", message)
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        for obj in queryset:
            self._record(request, obj, "remove", [])
        return super().log_deletions(request, queryset)

    def _record(self, request: HttpRequest, obj: Any, what: str, message: Any) -> None:
        """``message`` is Django's list of the fields that changed, their names without values."""
        site = obj if isinstance(obj, Site) else getattr(obj, "site", None)
        details = {name: _plain(getattr(obj, name)) for name in self.facts}
        changed = [field for part in message for facts in part.values() for field in facts.get("fields", [])]
        verb = f"{obj._meta.model_name}.{what}"
        audit.record(verb, obj, site=site, actor=request.user, details=details | {"changed": changed})


def _plain(value: Any) -> Any:
    return value.pk if isinstance(value, Model) else value


class SiteForm(forms.ModelForm):
    def clean_slug(self) -> str:
        slug = self.cleaned_data["slug"]
        if slug in TAKEN:
            raise forms.ValidationError(_("This address is taken by Centinela itself: choose another."))
        return slug


@admin.register(Site)
class SiteAdmin(Recorded):
    form = SiteForm
    facts = ("slug", "name")
    fixed = ("slug",)
    list_display = ("name", "slug")


@admin.register(Membership)
class MembershipAdmin(Recorded):
    facts = ("user", "role")
    fixed = ("user", "site")
    removable = True
    list_display = ("user", "site", "role")
    list_filter = ("site", "role")
    list_select_related = ("user", "site")


@admin.register(Protocol)
class ProtocolAdmin(Recorded):
    """To be looked at: a protocol mirrors mlcore, and how it is read is set at its sites, with a reason."""

    fields = ("slug", "reading", "double_share")
    list_display = fields

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(get_user_model())
class PersonAdmin(Recorded, UserAdmin):
    """Nobody is deleted, the trail names them: an account is made inactive."""

    facts = ("username", "is_active", "is_staff", "is_superuser")
    fixed = ("last_login", "date_joined")
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        (_("Person"), {"fields": ("first_name", "last_name", "email")}),
        (_("Access"), {"fields": ("is_active", "is_staff", "is_superuser")}),
        (_("Dates"), {"fields": ("last_login", "date_joined")}),
    )
    list_display = ("username", "first_name", "last_name", "is_active", "is_superuser")
    list_filter = ("is_active", "is_superuser")
    filter_horizontal = ()
