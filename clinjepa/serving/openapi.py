"""The OpenAPI description of the service, made from the types of its bodies."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

import clinjepa
from clinjepa.serving.requests import ScoreRequest
from clinjepa.serving.responses import ScoreResponse

_ERRORS = {
    "400": "The body is no JSON.",
    "401": "The token is missing or wrong.",
    "413": "The body is too large.",
    "415": "The body is not sent as application/json, or is compressed.",
    "422": "A field is missing or cannot be used; `error` names it.",
    "503": "Too many requests wait; try again after Retry-After seconds.",
}


def openapi() -> dict[str, Any]:
    """The description as plain JSON."""
    models = [(ScoreRequest, "validation"), (ScoreResponse, "serialization")]
    _, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    fault = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    faults = {status: _answer(words, {"$ref": "#/components/schemas/Fault"}) for status, words in _ERRORS.items()}
    score = {
        "summary": "Probabilities and forecasts after the last complete hour of a stay",
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ScoreRequest"}}}},
        "responses": {"200": _answer("The predictions.", {"$ref": "#/components/schemas/ScoreResponse"}), **faults},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "clinjepa", "version": clinjepa.__version__, "description": "A research tool; not validated for clinical use."},
        "paths": {
            "/v1/score": {"post": score},
            "/v1/model": {"get": _get("Which model answers, its tasks and forecasts", "application/json", {"type": "object"})},
            "/health": {"get": _get("Whether the service is up", "application/json", {"type": "object"}) | {"security": []}},
            "/metrics": {"get": _get("Counts as Prometheus text", "text/plain", {"type": "string"})},
            "/openapi.json": {"get": _get("This description", "application/json", {"type": "object"})},
        },
        "components": {
            "schemas": {**schemas["$defs"], "Fault": fault},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _answer(words: str, schema: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"description": words, "content": {kind: {"schema": schema}}}


def _get(words: str, kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"summary": words, "responses": {"200": _answer(words, schema, kind)}}
