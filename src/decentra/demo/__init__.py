"""The demo: four processes train one byte-level language model on four private silos of text.

What needs no peer lives in four small files, which are also the place to begin reading:

- ``silos``: the private texts, read from packages that are installed anyway;
- ``model``: the model, a GPT over bytes with about a million parameters;
- ``train``: the plain training loop, the same with and without peers;
- ``leak``: looks for the peers' updates in everything that the other processes received.

Nothing is imported here: ``silos`` and ``leak`` work where torch is not installed.
"""
