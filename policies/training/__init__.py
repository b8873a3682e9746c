"""How student policies are trained."""
