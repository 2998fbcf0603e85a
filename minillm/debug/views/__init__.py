"""Views: the engine's live objects and its probes' events, drawn in the terminal with rich.

Each function takes its facts at once and returns something to print: ``console.print(page_map(pool, requests))``, with
a console from `make_console`. The engine knows nothing of them.
"""
