"""The grammar behind tools/make_stories.py: see grammar.py, world.py and the plots_*.py files."""
