"""The pages that a reader sees: the report of a run, the data card, and one window of a stay.

| module | contents |
|---|---|
| `document` | `build_report` and `render_html`: report.json, checked against `schema.json`, and its page |
| `view` | the values that the template of the report reads |
| `headline` | the tiles of the headline figures, and the rule for too few patients |
| `sections` | rows, charts and words of single sections: claims, forecasts, geometry, costs, tasks |
| `words` | titles, descriptions of recipes, figures as table cells |
| `data_card_page`, `window_page` | the other two pages |
| `charts` | charts drawn by matplotlib, and the pictures of a space |
| `templates` | HTML templates and the style sheet |
"""
