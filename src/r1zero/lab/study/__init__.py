"""Several pretrainings and the matrix of their evaluations, base x template."""
