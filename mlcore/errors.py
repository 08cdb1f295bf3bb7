"""Named errors. Each message is one sentence a person can act on: what, where, what to do."""


class CentinelaError(Exception):
    """Base of every error whose text may be shown to a person as it stands."""


class DataError(CentinelaError):
    """Records, labels or arrays that cannot be used as given."""


class CalibrationError(CentinelaError):
    """Scores from which no honest calibration can be made."""


class ModelError(CentinelaError):
    """An encoder or head that is missing, unusable or of the wrong shape."""


class BundleError(CentinelaError):
    """A bundle folder that is incomplete, altered or not to be trusted."""
