"""The Python interface that models of all families and both twins share."""
