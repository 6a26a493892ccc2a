"""A user's mistakes: `mypy` tells of each, since it would tell of a needless `ignore` as well."""

from dioscuri import torch as dio

dio.load("x", weights="ema")  # type: ignore[arg-type]  # there are 'averaged' and 'raw' weights
dio.load(x=3)  # type: ignore[call-arg]  # `where` is missing
