"""What a notebook imports to check its parameters, to draw and to be played with. It knows no run."""
