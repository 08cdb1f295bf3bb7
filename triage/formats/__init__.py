"""How numbers and dates are written, where Django's own choice differs from the project's."""
