#!/usr/bin/env python3
"""One door: every command of Centinela. Starts the embedded services first where a command needs them."""

import os
import sys

WITHOUT_SERVICES = {
    "",
    "services",
    "train",
    "evaluate",
    "study",
    "help",
    "--help",
    "-h",
    "version",
    "--version",
}
WITHOUT_SERVICES |= {"makemessages", "compilemessages", "collectstatic"}


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "triage.settings")
    from triage import services

    command = sys.argv[1] if len(sys.argv) > 1 else ""
    asks_help = {"--help", "-h"} & set(sys.argv[2:])
    alone = command in WITHOUT_SERVICES and "--from-labels" not in sys.argv[2:]
    try:
        if not alone and not asks_help and os.environ.get("DEBUG", "1").lower() in services.ON:
            services.ensure()
    except services.ServiceError as error:
        sys.exit(_sentence(error))
    except KeyboardInterrupt:
        sys.exit(130)

    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(_sentence(error))


def _sentence(error: Exception) -> int:
    print(error, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
