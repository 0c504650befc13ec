"""Several finished runs side by side: `clinjepa report --compare`.

| module | contents |
|---|---|
| `content` | comparison.json: figures of the reports, paired differences; checked against `schema.json` |
| `page` | its page |
"""
