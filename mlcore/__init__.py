"""The science of Centinela: plain Python on numpy, torch and scikit-learn, never Django."""
