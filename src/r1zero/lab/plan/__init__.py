"""What a run needs, calculated before anything is rented."""
