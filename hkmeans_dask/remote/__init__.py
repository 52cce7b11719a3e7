"""All that is known of what is behind a URL, whatever is stored there.

`patience` asks stores again that fail for a moment, and tells in one line what those do
not do that go on failing; `objects` are what is below a URL, by such calls. May import
nothing else. Begin with `objects`.
"""
