/* SPDX-License-Identifier: Apache-2.0 */
/* Chat templates: what is refused and where, limits, memory; and where a model keeps its template. */
#include "base/alloc.h"
#include "base/limits.h"
#include "router/tokenizer/chat_template.h"
#include "tests/check.h"

#include <sys/stat.h>
#include <unistd.h>

static const struct med_chat_message hello[] = {{"system", "Be brief.", 9}, {"user", "Hello", 5}};

static int render(const char *text, struct med_buf *out, struct med_err *err)
{
    struct med_chat_template *chat_template;
    struct med_chat_input input = {hello, 2, true, 0};
    int rc = med_chat_template_parse(text, strlen(text), "t", "<s>", NULL, &chat_template, err);
    if (rc < 0) {
        return rc;
    }
    rc = med_chat_template_render(chat_template, &input, out, err);
    med_chat_template_free(chat_template);
    return rc;
}

static void test_constructs_outside_the_subset_when_loaded_then_refused_by_name_and_line(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"\n{{ x|escape }}", "t: line 2: the filter escape is not supported"},
        {"{{ x is callable }}", "t: line 1: the test callable is not supported"},
        {"{{ x.append(1) }}", "the method append() is not supported"},
        {"{{ cycler(1) }}", "the function cycler() is not supported"},
        {"{% include 'a' %}", "the statement {% include %} is not supported here"},
        {"{% raw %}x{% endraw %}", "the statement {% raw %} is not supported here"},
        {"{% for x in y recursive %}{% endfor %}", "for ... recursive is not supported"},
        {"{{ strftime_now('%d %Z') }}", "the conversion %Z is not supported"},
        {"{{ f(*x) }}", "* and ** in a call are not supported"},
        {"{{ x.__class__ }}", "the attribute __class__ is not supported"},
        {"{{ 'a", "a string is not closed"},
        {"a\n\n{# b", "t: line 3: a comment is not closed, expected #}"},
        {"{% if x %}", "the template ends before elif, for line 1"},
        {"{{ 1 + }}", "expected an expression, found the end of the tag"},
        {"{{ (1] }}", "a closing bracket without its opening one: ]"},
        {"{% break %}", "break stands outside of a loop"},
        {"{{ 99999999999999999999 }}", "an integer beyond 64 bits is not supported"},
        {"{{ '\\N{BULLET}' }}", "the string escape \\N{...} is not supported"},
        {"\xff", "t: byte 0 is not UTF-8"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct med_buf out;
        struct med_err err = {0};
        med_buf_init(&out, 1000);
        CHECK_INT(render(cases[i].text, &out, &err), MED_E_FORMAT);
        CHECK_CONTAINS(err.text, cases[i].says);
        med_buf_release(&out);
    }
}

static void check_render(const char *text, int code, const char *says)
{
    struct med_buf out;
    struct med_err err = {0};
    med_buf_init(&out, MED_LIMIT_PROMPT_BYTES);
    CHECK_INT(render(text, &out, &err), code);
    CHECK_CONTAINS(code == 0 ? out.data : err.text, says);
    CHECK(code == 0 || out.length == 0);
    med_buf_release(&out);
}

static void test_a_template_when_it_refuses_then_its_own_words_come_back(void)
{
    check_render("{{ raise_exception('Not ' ~ messages|length ~ '!') }}", MED_E_INVALID,
                 "the chat template refuses the messages: Not 2!");
    check_render("\n{{ x.y }}", MED_E_INVALID, "t: line 2: x is undefined");
    check_render("{{ bos_token }}{{ eos_token }}|{{ tools }}|{{ messages[1].content }}", 0,
                 "<s>|None|Hello");
}

static void test_what_never_ends_when_rendered_then_a_limit_ends_it(void)
{
    check_render("{% set r = range(99999) %}{% for i in range(300) %}{{ -1 in r }}{% endfor %}",
                 MED_E_LIMIT, "steps");
    check_render("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
                 MED_E_LIMIT, "bytes of memory");
    check_render("{% set ns = namespace(s='0123456789') %}{% for i in range(60) %}"
                 "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
                 MED_E_LIMIT, "");
    check_render("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", MED_E_LIMIT, "");
    check_render("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", MED_E_LIMIT,
                 "macros call each other too deeply");
    check_render("{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set ns.x = [ns.x] %}"
                 "{% endfor %}",
                 MED_E_LIMIT, "lists are nested more than 32 deep");
}

static void test_work_that_grows_with_values_when_rendered_then_counted(void)
{
    /* What a fuzzer found: a small value, most of it shared, that prints as gigabytes. */
    check_render("09{{[[0]*295803]*29580}}", MED_E_LIMIT, "a printed value is longer than");
    check_render("{{ ([[0.1] * 295803] * 29580) ~ '' }}", MED_E_LIMIT, "steps");
    check_render("{{ ([[0] * 295803] * 29580) | tojson }}", MED_E_LIMIT, "tojson: the text is");
    /* Searches that look at every byte again at every place. */
    static const char *const searches[] = {
        "part in text",     "text.find(part)",        "text.rfind(part)",
        "text.count(part)", "text.replace(part, '')", "text | replace(part, '')",
        "text.split(part)", "text.rsplit(part)",      "('c' * 200000).strip('a' * 200000 ~ 'c')"};
    for (size_t i = 0; i < sizeof(searches) / sizeof(*searches); i++) {
        char text[256];
        (void)snprintf(text, sizeof(text),
                       "{%% set text = 'a' * 1000000 %%}{%% set part = 'a' * 100000 ~ 'b' %%}"
                       "{{ %s }}",
                       searches[i]);
        check_render(text, MED_E_LIMIT, "steps");
    }
    /* The same on texts as chats have them. */
    check_render("{% set text = 'one two ' * 100000 %}"
                 "{{ text.split(' ')|length }} {{ text.count('two') }} {{ text.find('three') }} "
                 "{{ 'three' in text }} {{ text.replace('one ', '')|length }} "
                 "{{ text.strip(' owt')|length }}",
                 0, "200001 100000 -1 False 400000 799994");
}

static void test_deep_text_when_parsed_then_refused_without_deep_recursion(void)
{
    static const char *const units[] = {"(", "[", "-", "not ", "{% if x %}", "{{ [", "x if "};
    for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++) {
        struct med_buf text;
        struct med_buf out;
        struct med_err err = {0};
        med_buf_init(&text, MED_LIMIT_CHAT_TEMPLATE_BYTES);
        med_buf_init(&out, 1000);
        REQUIRE(med_buf_append_str(&text, *units[i] == '{' ? "" : "{{ ") == 0);
        while (text.length + strlen(units[i]) < 200000) {
            REQUIRE(med_buf_append_str(&text, units[i]) == 0);
        }
        CHECK_INT(render(text.data, &out, &err), MED_E_FORMAT);
        med_buf_release(&text);
        med_buf_release(&out);
    }
}

/* ---- loading ---- */

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (!text) {
        (void)unlink(path);
        return;
    }
    FILE *file = fopen(path, "w");
    REQUIRE(file != NULL);
    REQUIRE(fputs(text, file) >= 0);
    REQUIRE(fclose(file) == 0);
}

static void check_load(const char *config, const char *file, int code, const char *says)
{
    char dir[] = "/tmp/medley-chat-XXXXXX";
    struct med_chat_template *chat_template = NULL;
    struct med_err err = {0};
    REQUIRE(mkdtemp(dir) != NULL);
    write_file(dir, "tokenizer_config.json", config);
    write_file(dir, "chat_template.jinja", file);
    CHECK_INT(med_chat_template_load(dir, &chat_template, &err), code);
    if (code < 0) {
        CHECK_CONTAINS(err.text, says);
    } else if (!says) {
        CHECK(chat_template == NULL);
    } else {
        struct med_chat_input input = {hello, 2, false, 0};
        struct med_buf out;
        med_buf_init(&out, 1000);
        REQUIRE(chat_template != NULL);
        CHECK_INT(med_chat_template_render(chat_template, &input, &out, &err), 0);
        CHECK_STR(out.data, says);
        med_buf_release(&out);
    }
    med_chat_template_free(chat_template);
    write_file(dir, "tokenizer_config.json", NULL);
    write_file(dir, "chat_template.jinja", NULL);
    REQUIRE(rmdir(dir) == 0);
}

static void test_a_directory_when_loaded_then_the_template_and_tokens_are_found(void)
{
    check_load(NULL, NULL, 0, NULL);
    check_load("{\"bos_token\": \"<s>\"}", NULL, 0, NULL);
    check_load("{\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"</s>\", \"lstrip\": false},"
               " \"chat_template\": \"{{ bos_token ~ eos_token }}\"}",
               NULL, 0, "<s></s>");
    check_load("{\"bos_token\": null, \"chat_template\": [{\"name\": \"tool_use\", \"template\":"
               " \"no\"}, {\"name\": \"default\", \"template\": \"yes{{ bos_token }}\"}]}",
               NULL, 0, "yes");
    check_load("{\"bos_token\": \"<s>\", \"chat_template\": \"no\"}", "file {{ bos_token }}", 0,
               "file <s>");
    check_load(NULL, "alone", 0, "alone");
    check_load("{\"chat_template\": 3}", NULL, MED_E_FORMAT, "$.chat_template");
    check_load("{\"chat_template\": \"{% what %}\"}", NULL, MED_E_FORMAT,
               "tokenizer_config.json: line 1: the statement {% what %}");
    check_load("{", "x", MED_E_FORMAT, "tokenizer_config.json");
}

static void test_every_allocation_when_it_fails_then_nothing_leaks(void)
{
    static const char text[] =
        "{% set ns = namespace(a=1) %}{% macro f(x, y='b') %}{{ x ~ y }}{% endmacro %}"
        "{% for m in messages[::-1] if m.role != 'x' %}{{ f(m.content|trim|upper) }}{{ loop.index "
        "}}"
        "{% set ns.b = m.content.split('l') %}{{ ns.b|tojson }}{% endfor %}"
        "{% set t %}{{ messages|map(attribute='role')|join(',') }}{% endset %}{{ t|replace('s', "
        "'') }}"
        "{{ 'a\\tb' * 3 }}{{ {'k': [1, 2.5]}.items()|list }}{{ strftime_now('%d %B') }}";
    int64_t live = med_alloc_bytes_live();
    uint64_t nth = 0;
    int rc;
    do {
        struct med_buf out;
        struct med_err err = {0};
        med_buf_init(&out, 10000);
        (void)med_alloc_fail_nth(++nth);
        rc = render(text, &out, &err);
        (void)med_alloc_fail_nth(0);
        CHECK(rc == 0 || rc == MED_E_NOMEM);
        CHECK(rc == 0 || err.text[0] != '\0');
        med_buf_release(&out);
        CHECK_INT(med_alloc_bytes_live(), live);
    } while (rc < 0 && nth < 1000);
    CHECK(nth > 8 && nth < 1000);
}

int main(void)
{
    RUN(test_constructs_outside_the_subset_when_loaded_then_refused_by_name_and_line);
    RUN(test_a_template_when_it_refuses_then_its_own_words_come_back);
    RUN(test_what_never_ends_when_rendered_then_a_limit_ends_it);
    RUN(test_work_that_grows_with_values_when_rendered_then_counted);
    RUN(test_deep_text_when_parsed_then_refused_without_deep_recursion);
    RUN(test_a_directory_when_loaded_then_the_template_and_tokens_are_found);
    RUN(test_every_allocation_when_it_fails_then_nothing_leaks);
    return check_finish();
}
