"""How it is computed: the compiled coupling block and the compiled blur. No mathematics to read."""
