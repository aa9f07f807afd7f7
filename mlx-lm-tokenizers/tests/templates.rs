//! Chat templates: equal to Jinja2 where they are honest, an error where they are not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use mlx_lm_common::{Error, input::ChatInput};
use mlx_lm_tokenizers::{ChatTemplate, Clock, Limits, SpecialTokens, chrono::DateTime};
use serde_json::{Map, Value, json};
use std::sync::Arc;

fn chat(value: &Value) -> ChatInput {
    let mut context: Map<String, Value> = value.as_object().unwrap().clone();
    let messages = context.remove("messages").unwrap().as_array().unwrap().clone();
    let tools = context.remove("tools").map(|tools| tools.as_array().unwrap().clone());
    let add_generation_prompt = context.remove("add_generation_prompt").is_none_or(|v| v.as_bool().unwrap());
    ChatInput { messages, tools, context, add_generation_prompt }
}

fn render(source: &str) -> Result<String, String> {
    let template = ChatTemplate::new(source).map_err(words)?;
    template.render(&ChatInput::default(), &SpecialTokens::new()).map_err(words)
}

fn words(e: Error) -> String {
    match e {
        Error::Template(words) => words,
        other => panic!("another kind of error: {other}"),
    }
}

/// `oracle/templates.py` wrote the expected texts with Jinja2 under transformers' settings.
#[test]
fn the_same_text_as_jinja2() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/templates.json")).unwrap();
    let now = DateTime::parse_from_rfc3339(fixture["now"].as_str().unwrap()).unwrap();
    let clock: Clock = Arc::new(move || now);
    let tokens = fixture["tokens"].as_object().unwrap();
    let special = tokens
        .iter()
        .fold(SpecialTokens::new(), |all, (name, token)| all.with(name, token.as_str().unwrap()));
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() > 60);
    let mut wrong = Vec::new();
    for case in cases {
        let (name, chat_name) = (case["template"].as_str().unwrap(), case["chat"].as_str().unwrap());
        let template = ChatTemplate::new(fixture["templates"][name].as_str().unwrap())
            .unwrap()
            .with_clock(clock.clone());
        let found = match template.render(&chat(&fixture["chats"][chat_name]), &special) {
            Ok(text) => json!({ "text": text }),
            Err(e) => json!({ "raises": words(e) }),
        };
        for key in ["text", "raises"] {
            if found.get(key) != case.get(key) {
                wrong.push(format!(
                    "{name}, {chat_name}:\nfound  {:?}\nwanted {:?}",
                    found.get(key),
                    case.get(key)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_compiled_template_renders_again_and_again() {
    let template = ChatTemplate::new(
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    )
    .unwrap();
    for n in 0..5 {
        let chat =
            ChatInput { messages: vec![json!({"role": "user", "content": "x"}); n], ..ChatInput::default() };
        assert_eq!(template.render(&chat, &SpecialTokens::new()).unwrap(), n.to_string());
    }
}

#[test]
fn the_context_hides_special_tokens_but_not_the_conversation() {
    let template =
        ChatTemplate::new("{{ bos_token }}{{ eos_token }}{{ messages }}{{ add_generation_prompt }}").unwrap();
    let context = json!({"eos_token": "mine", "messages": "no", "add_generation_prompt": "no"})
        .as_object()
        .unwrap()
        .clone();
    let special = SpecialTokens::new().with("bos_token", "<s>").with("eos_token", "</s>");
    let text = template.render(&ChatInput { context, ..ChatInput::default() }, &special).unwrap();
    assert_eq!(text, "<s>mine[]False");
}

#[test]
fn generation_tags_only_where_they_are_tags() {
    for (source, wanted) in [
        ("a {%- generation -%} b {%- endgeneration %} c", "ab c"),
        (
            "{{ '{% generation %}' }}{{ \"%} {% endgeneration %}\" }}",
            "{% generation %}%} {% endgeneration %}",
        ),
        ("{# {% generation %} #}x{% raw %}{% generation %}{%- endraw %}y", "x{% generation %}y"),
        ("{% set generation = 'g' %}{{ generation }}{% if generation %}!{% endif %}", "g!"),
        ("{%generation%}{%+ if true %}x{%endif%}{%endgeneration%}", "x"),
        ("generation", "generation"),
        ("", ""),
    ] {
        assert_eq!(render(source).as_deref(), Ok(wanted), "{source}");
    }
    for source in ["{% generation %}", "{% endgeneration %}", "{{ 'open", "{% raw %}x", "{#", "{%", "{{"] {
        // Whatever is wrong with them is said by the parser, or they are text.
        let _ = render(source);
    }
    assert!(render("{% generation %}").is_err());
}

#[test]
fn errors_have_the_templates_words_or_the_line() {
    assert_eq!(
        render("{{ raise_exception('Roles must alternate!') }}").unwrap_err(),
        "Roles must alternate!"
    );
    let in_macro = "{% macro m() %}{{ raise_exception('deep') }}{% endmacro %}\n{{ m() }}";
    assert_eq!(render(in_macro).unwrap_err(), "deep");
    assert!(render("a\nb\n{% if %}").unwrap_err().starts_with("line 3: syntax error"));
    assert!(render("a\n{{ nothing.at.all }}").unwrap_err().starts_with("line 2: undefined value"));
    assert!(render("{{ 'x' | nofilter }}").unwrap_err().contains("nofilter"));
    assert!(render("{{ strftime_now('%Q') }}").unwrap_err().contains("strftime_now"));
    assert!(render("{% include 'other' %}").is_err());
    assert!(render("{{ nothing | tojson }}").unwrap_err().contains("undefined"));
}

/// A value that is built in a few steps and printed in 2^64.
const TREE: &str = "{% set ns = namespace(x=[], y=[]) %}{% for i in range(64) %}\
    {% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}";

/// Each of these would fill the memory, overflow the stack or run for hours.
#[test]
fn hostile_templates_are_errors() {
    let long = |start: &str, middle: &str, end: &str| {
        format!("{start}{}{end}", middle.repeat(60_000 / middle.len()))
    };
    for source in [
        "{% for i in range(10**9) %}x{% endfor %}".to_string(),
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}".into(),
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}".into(),
        "{% for m in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(),
        "{{ 'a' * 10**9 }}".into(),
        "{% set x = 'a' * 10**9 %}".into(),
        "{{ [0] * 10**9 }}".into(),
        "{% set ns = namespace(x='ab') %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
            .into(),
        "{{ [1] | tojson(indent=10**9) }}".into(),
        "{{ 'a' | center(10**9) }}{{ 'a' | indent(10**9) }}{{ 'a' * 10**8 }}".into(),
        "{% set s = 'a' * 100000 %}{{ s | replace('a', s) | length }}".into(),
        "{% set s = 'a' * 100000 %}{{ s.replace('a', s) | length }}".into(),
        "{% set s = 'a' * 100000 %}{{ s.join(range(90000)) | length }}".into(),
        "{{ '%1000000000d' % 1 }}".into(),
        TREE.to_string() + "{{ ns.x }}",
        TREE.to_string() + "{{ ns.x | tojson }}",
        TREE.to_string() + "{{ ns.x ~ '' }}",
        TREE.to_string() + "{{ ns.x == ns.y }}",
        "{% macro m(x, n) %}{{ m([x, x], n + 1) if n < 40 else x ~ '' }}{% endmacro %}{{ m([], 0) }}".into(),
        "{% for x in [[]] recursive %}{{ loop([[x, x]]) if loop.depth < 40 else x ~ '' }}{% endfor %}".into(),
        (0..40).map(|i| format!("{{% with x{} = [x{i}, x{i}] %}}", i + 1)).collect::<String>()
            + "{{ x40 ~ '' }}"
            + &"{% endwith %}".repeat(40),
        "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
            .into(),
        "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}".into(),
        "{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}".into(),
        "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a ~ b }}".into(),
        "{{ ([['a'] * 90000] * 90000) ~ '' }}".into(),
        "{{ (90000 * [90000 * ['a']]) ~ '' }}".into(),
        "{{ strftime_now('%c' * 1000000) }}".into(),
        long("{{ ", "(", ""),
        long("{{ ", "[", ""),
        long("", "{% if 1 %}", ""),
        long("{{ 1", " and 1", ""),
        long("{{ 'a'", "|upper", ""),
        "x".repeat(1 << 20),
    ] {
        let error = render(&source).expect_err(&source[..source.len().min(200)]);
        assert!(!error.is_empty());
    }
}

/// Names are bound in all these ways, and nothing of it shows.
#[test]
fn bound_values_are_looked_at_without_a_trace() {
    for (source, wanted) in [
        ("{% set a, b = 1, [2] %}{{ a }}{{ b }}", "1[2]"),
        ("{% set (a, b) = (1, 2) -%}  {{ a }}{{ b }}", "12"),
        ("{% set a = 1 %}\nx\n  {%- set a = 2 %}\n  y{{ a }}", "x  y2"),
        ("{% set a = {'x=y': '%}'} %}{{ a }}", "{'x=y': '%}'}"),
        ("{% set a %}{% set b = 1 %}text{{ b }}{% endset %}{{ a }}", "text1"),
        ("{% set a | upper %}text{% endset %}{{ a }}", "TEXT"),
        (
            "{% for k, (v, w) in [(1, (2, 3))] if k == 1 %}\n{{ k }}{{ v }}{{ w }}\n{% else %}none{% endfor %}",
            "123\n",
        ),
        ("{% for a in [] %}{{ a }}{% else %}none{% endfor %}", "none"),
        ("{% with a = 1, b = [2, 3] %}{{ a }}{{ b }}{% endwith %}{% with %}{% endwith %}{{ a }}", "1[2, 3]"),
        (
            "{% macro m(a, b=[1, 2], c='x=y') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}{{ m(1, c=2) }}",
            "1[1, 2]x=y1[1, 2]2",
        ),
        (
            "{% macro m(a) %}{{ caller([a, a]) }}{% endmacro %}{% call(x) m(1) %}{{ x }}{% endcall %}",
            "[1, 1]",
        ),
        ("{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{{ 1 }}{% endcall %}", "1"),
        (
            "{% set ns = namespace(a=1) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}",
            "4",
        ),
        (
            "{{ 2*3 }} {{ 2 * -3.5 }} {{ 'ab' * 2 }} {{ 2 * 'ab' }} {{ 2 ** 3 * 2 }} {{ '*' * 2 }} {{ [1]|length*2 }} {{ 2*(1+2) }}",
            "6 -7.0 abab abab 16 ** 2 6",
        ),
        (
            "{{ range(*[1, 3])|list }}{{ dict(**{'a': 1}) }}{# 2 * 3 #} 2 * 3 {% raw %}{{ 2 * 3 }}{% endraw %}",
            "[1, 2]{'a': 1} 2 * 3 {{ 2 * 3 }}",
        ),
    ] {
        assert_eq!(render(source).as_deref(), Ok(wanted), "{source}");
    }
}

/// The compiler goes into the depth for each of these terms.
#[test]
fn long_expressions_do_not_overflow_the_stack() {
    for (start, term, end, wanted) in [
        ("{{ ", "-", "1 }}", None),
        ("{{ ", "not ", "1 }}", None),
        ("{{ 1", "+1", " }}", None),
        ("{{ 1", " and 1", " }}", Some("1")),
        ("{{ 'a'", "|e", " }}", Some("a")),
        ("{{ 1", " if 1 else 1", " }}", Some("1")),
    ] {
        let source = format!("{start}{}{end}", term.repeat(60_000 / term.len()));
        let text = render(&source).unwrap();
        assert!(wanted.is_none_or(|wanted| text == wanted), "{term}: {text}");
    }
}

/// Long, but not hostile.
#[test]
fn long_conversations_are_rendered() {
    let source = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|end|>\n{% endfor %}";
    let message = json!({"role": "user", "content": "word ".repeat(200)});
    let chat = ChatInput { messages: vec![message; 5000], ..ChatInput::default() };
    let text = ChatTemplate::new(source).unwrap().render(&chat, &SpecialTokens::new()).unwrap();
    assert_eq!(text.len(), 5000 * (9 + 999 + 8));
}

#[test]
fn limits_can_be_set() {
    let template = ChatTemplate::new("{{ 'a' * 1000 }}").unwrap();
    let with = |steps, output| template.clone().with_limits(Limits { steps, output });
    let render = |t: ChatTemplate| t.render(&ChatInput::default(), &SpecialTokens::new()).map_err(words);
    assert_eq!(render(with(1000, 1000)).unwrap().len(), 1000);
    assert!(render(with(1000, 999)).unwrap_err().contains("999 bytes"));
    assert!(render(with(3, 1000)).unwrap_err().contains("too much work"));
}
