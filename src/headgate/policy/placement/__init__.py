"""Where a piece of work lands, and what still fits later because of it."""
