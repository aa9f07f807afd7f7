#!/usr/bin/env python3
"""Writes mlx-lm-tokenizers/tests/fixtures/templates.json: small chat templates, each with what Jinja2 makes of it under the settings
that transformers uses. Needs the package jinja2 (3.1).

usage: templates.py OUT
"""
import datetime
import json
import sys

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5)

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Weather of a "city" <now> & später',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Zürich", "東京"]},
                "days": {"type": "integer", "default": 3},
                "least": {"type": "number", "default": 1e-7},
                "most": {"type": "number", "default": 1e22, "examples": [1.0, 0.5, 1e15, 123456.789, -0.0, 0.0001]},
                "empty": {"type": "object", "properties": {}, "required": []},
            },
            "required": ["city"],
        },
    },
}

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  Hello\tthere 👩‍👩‍👧 \n"},
    {"role": "assistant", "content": "<think>hm</think>\n\nHi!"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "call_1", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "dry": True, "x": None}}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": '{"degrees": 21.5}'},
    {"role": "user", "content": "Thanks, it's fine"},
]

CHATS = {
    "plain": {"messages": MESSAGES[1:2]},
    "system": {"messages": MESSAGES[:3]},
    "tools": {"messages": MESSAGES, "tools": [TOOL]},
    "closed": {"messages": MESSAGES[1:3], "add_generation_prompt": False},
    "thinking": {"messages": MESSAGES[1:2], "enable_thinking": True, "documents": [{"title": "T", "text": "body"}]},
}

TEMPLATES = {
    "loop": """{{ bos_token }}{% for message in messages %}
    {%- if loop.first %}first {% endif -%}
    <|{{ message['role'] }}|>{{ message.content | trim }}<|end|>
{% endfor %}
{% if add_generation_prompt %}<|assistant|>
{% endif %}
""",
    "whitespace": """  {% if true %}
  a
    {% endif %}
b {%- if true -%}   c   {%- endif %}

{%+ if true %} d {% endif +%}
{# gone #}
e {#- gone -#} f
{{- ' g ' -}}
   h
""",
    "json": """{% for tool in tools or [] %}{{ tool | tojson }}
{{ tool | tojson(indent=2) }}
{{ tool.function.parameters | tojson(separators=(',', ':')) }}
{{ tool.function | tojson(ensure_ascii=true) }}
{{ tool.function | tojson(sort_keys=true) }}
{% endfor %}{{ {'a': [], 'b': {}, 'c': [[]]} | tojson(indent=4) }}{{ messages | tojson }}
{{ "quote\\" back\\\\slash \\n \\t <b> & 'x' \\u007f" | tojson }}{{ [true, false, none, 1, -2, 1.5, 1e100] | tojson }}
""",
    "methods": """{% for m in messages %}{% set c = m.content %}
{{ c.strip() }}|{{ c.lstrip() }}|{{ c.rstrip('\\n') }}|{{ c.upper() }}|{{ c.title() }}|{{ c.split('</think>')[-1].lstrip('\\n') }}|
{{ c.startswith('<think>') }}|{{ c.endswith('!') }}|{{ c.replace('e', '3') }}|{{ '</think>' in c }}|{{ c.find('l') }}|{{ c | length }}|
{{ m.get('tool_call_id', 'no id') }}|{{ m.keys() | list | join(',') }}|{% for k, v in m.items() if k == 'role' %}{{ k }}={{ v }}{% endfor %}|
{{ c[:3] }}|{{ c[::-1] }}|{{ c[-2:] }}|{{ m.role is string }}|{{ m.nothing is defined }}|{{ m.tool_calls is sequence }}|
{% endfor %}""",
    "values": """{{ true }} {{ none }} {{ 1 }} {{ 1.0 }} {{ 1e-7 }} {{ 1e16 }} {{ 123456.789 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 10 }}
{{ [1, 'a', none, true] }} {{ {'k': 'v', 'n': [1.5]} }} {{ (1, 2) }} {{ 'a' ~ 1 ~ none }} {{ "it's" }} {{ ["it's"] }} {{ undefined_name }}|
{{ 1 if false }}|{{ messages is iterable }} {{ none is iterable }} {{ 'a' is iterable }} {{ tools is none }} {{ documents is defined }} {{ documents }}
{{ range(5) | list }} {{ range(4, -1, -1) | list }} {{ 'a' * 3 }} {{ [1] + [2] }} {{ 'x' == 'x' and not false }} {{ 3 in [1, 2, 3] }}
{{ 'abc' | upper | replace('B', '-') }} {{ ' a ' | trim }}. {{ 'a,b' | string }} {{ '3' | int + 1 }} {{ [3, 1, 2] | sort }} {{ [1, 2] | first }} {{ [1, 2] | last }}
{{ messages | map(attribute='role') | list | unique | join(' ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ messages | rejectattr('role', 'in', ['user', 'tool']) | map(attribute='content') | list }} {{ none | default('d') }} {{ nothing | default('d', true) }}
""",
    "control": """{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{% if m.role == 'tool' %}{% break %}{% endif %}[{{ loop.index0 }}/{{ loop.length }} {{ m.role }} {{ loop.previtem.role if loop.previtem is defined }}]{% else %}none{% endfor %}
{% for i in range(3) %}{{ i }}{% if not loop.last %}, {% endif %}{% endfor %}
""",
    "namespace": """{% set ns = namespace(found=false, names=[], n=0) %}{% for m in messages %}{% set inside = m.role %}{% if m.role == 'user' and not ns.found %}{% set ns.found = true %}{% endif %}{% set ns.names = ns.names + [m.role] %}{% set ns.n = ns.n + 1 %}{% endfor %}
{{ ns.found }} {{ ns.names }} {{ ns.n }} {{ inside is defined }}
{% set block %}
  captured {{ ns.n }}
{% endset %}
{{ block | trim }}
""",
    "macro": """{% macro render(value, depth=0) %}{% if value is mapping %}{% for k in value %}{{ k }}:{{ render(value[k], depth + 1) }};{% endfor %}{% elif value is string %}'{{ value }}'{% elif value is sequence %}[{% for v in value %}{{ render(v, depth + 1) }}{% endfor %}]{% else %}{{ value }}@{{ depth }}{% endif %}{% endmacro %}
{{ render(tools or messages) }}
{% macro outer() %}<{{ caller() }}>{% endmacro %}{% call outer() %}inner{% endcall %}
""",
    "calls": """{% for m in messages %}{% if m.tool_calls is defined and m.tool_calls %}{% for call in m.tool_calls %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% for key, value in call.function.arguments | items %}<{{ key }}>{{ value if value is string else value | tojson }}</{{ key }}>{% endfor %}{% endfor %}{% endif %}{% endfor %}
""",
    "generation": """{% for m in messages %}{% if m.role == 'assistant' %}
    {%- generation -%}
    {% set scoped = 1 %}
    {{ m.content }}<|end|>
    {%- endgeneration -%}
{% else %}{% generation %}
{{ m.role }}{% endgeneration %}

{% endif %}{% endfor %}{{ scoped is defined }}
{{ "{% generation %}" }} {# {% generation %} #} {% raw %}{% generation %}{{ x }}{% endraw %} generation endgeneration
""",
    "time": """{{ strftime_now('%d %b %Y') }} {{ strftime_now("%Y-%m-%d %H:%M:%S") }} {{ strftime_now('%B %-d, %A, %j, %y, %I%p') }}
""",
    "tokens": """{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token is defined }}{{ enable_thinking is defined and enable_thinking }}{{ (documents or [])|length }}
""",
    "raise": """{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported: ' ~ m.content) }}{% endif %}{% endfor %}ok
""",
}

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


class Generation(Extension):
    """transformers' tag: it marks what is inside and prints it."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller):
        return caller()


def raise_exception(message):
    raise TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def render(source, chat):
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = NOW.strftime
    variables = {"tools": None, "documents": None, "add_generation_prompt": True, **TOKENS, **chat}
    try:
        return {"text": environment.from_string(source).render(**variables)}
    except TemplateError as error:
        return {"raises": str(error)}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    cases = [
        {"template": template, "chat": chat, **render(source, values)}
        for template, source in TEMPLATES.items()
        for chat, values in CHATS.items()
    ]
    fixture = {"now": NOW.isoformat() + "+00:00", "tokens": TOKENS, "chats": CHATS, "templates": TEMPLATES, "cases": cases}
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        json.dump(fixture, out, ensure_ascii=False, indent=1)
        out.write("\n")


if __name__ == "__main__":
    main()
