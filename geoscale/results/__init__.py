"""What people take away from a map: polygons, transitions, true areas."""
