"""Sources: where imagery comes from, behind one protocol (`types.Source`)."""
