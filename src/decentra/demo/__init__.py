"""The demo: four processes train one language model on four private silos of text.

What needs no peer lives in five small files, which are also the place to begin reading:

- ``silos``: the private texts, read from packages that are installed anyway;
- ``model``: the model, a GPT over bytes with about a million parameters;
- ``train``: the plain training loop, the same with and without peers;
- ``smollm2``: a real model, its adapters and news articles, for ``--model smollm2``;
- ``leak``: looks for the peers' updates in everything that the other processes received.

``task`` is what the two models have in common, for ``launch`` and ``program``. Nothing is imported here: ``silos`` and
``leak`` work where torch is not installed.
"""
