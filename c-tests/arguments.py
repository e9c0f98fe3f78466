# SPDX-License-Identifier: GPL-3.0-or-later
# Writes a C program that calls every function of the header with every argument that no function should accept:
# arguments.py HEADER SYMBOLS >arguments.c
#
# Each pointer is NULL once while all other arguments are good; each string is once not UTF-8 and once too long; each
# number that stands for one of a few things is once none of them, and each index too large.  Where a status is
# returned, it must be GUIX_OFFLOAD_INVALID_ARGUMENT, with a message, and no output may be written; else the call must
# come back.
import re
import sys

header, symbols = (open(name).read() for name in sys.argv[1:])
declarations = re.sub(r'/\*.*?\*/', '', header, flags=re.S)
functions = re.findall(r'^([\w ]+?[ *]+)(guix_offload_\w+)\(([^;{}]*?)\);', declarations, re.M)
known = symbols.split()
assert sorted(name for _, name, _ in functions) == sorted(known), 'the header and the list of symbols differ'

# Handles that cannot be had without a machine: live.c has the rest of their functions' arguments.
ABSENT = ('connection', 'lease', 'items')
# Pointers that may be NULL, by function or for all.
OPTIONAL = {'progress', 'data', 'sent', 'machine_new.system', 'event_text.length', 'machines_load.file',
            'machines_load_cancellable.file', 'request_lock_outputs.missing', 'authorize.confirmed',
            'authorize_cancellable.confirmed'}
OPTIONAL |= {f'{function}.{name}' for function in ('scan', 'scan_cancellable')
             for name in ('user', 'accepted', 'private_key')}
# No function needs a cancellation, but those that are about it.
OPTIONAL |= {re.sub('guix_offload_', '', name) + '.cancellation' for _, name, parameters in functions
             if 'const guix_offload_cancellation *' in parameters and not name.startswith('guix_offload_cancellation')}
TEXTS = {'host_key': 'HOST_KEY', 'derivation': 'ITEM("x.drv")', 'system': '"x86_64-linux"', 'name': '"m"',
         'user': '"u"'}
NUMBERS = {'double': '1.0'}
# Where functions put what they give: name and type of each.
outputs = {}


def good(function, kind, name):
    """An argument of that type that the function takes."""
    handle = re.fullmatch(r'(const )?guix_offload_(\w+) (\*+)', kind)
    if kind.endswith('_function'):
        return 'NULL'
    if handle and handle[3] == '**':
        outputs['out_' + handle[2]] = kind[:-1]
        return '&out.out_' + handle[2]
    if handle:
        return 'NULL' if handle[2] in ABSENT else 'given.' + handle[2]
    if kind == 'const char *':
        return TEXTS.get(name, '"/x"') if 'directory' not in function else '"/x"'
    if kind == 'void *':
        return 'NULL'
    if kind.endswith('*'):
        outputs['out_' + kind.rstrip('* ')] = kind[:-1]
        return '&out.out_' + kind.rstrip('* ')
    return NUMBERS.get(kind, '0')


def bad(function, kind, name):
    """The arguments of that type that it must not take."""
    if kind.endswith('_function'):
        return []
    short = function.removeprefix('guix_offload_')
    values = ['NULL'] if kind.endswith('*') and not OPTIONAL & {name, f'{short}.{name}'} else []
    if kind == 'const char *':
        values += ['NOT_UTF8', 'too_long()']
    elif kind == 'int32_t' and name in ('which', 'print', 'status', 'reply', 'kind'):
        values += ['-1', '99', 'INT32_MAX', 'INT32_MIN']
    elif kind == 'int':
        values += ['-2', '12345'] if name == 'log_descriptor' else ['-1', '12345']
    elif kind == 'size_t' and name != 'count': # any number of builds can be asked for
        values += ['1', 'SIZE_MAX']
    return values


calls = []
for result, name, parameters in functions:
    parameters = [re.fullmatch(r'(.*?)(\w+)', ' '.join(one.split())).groups()
                  for one in parameters.split(',') if one.strip() != 'void']
    parameters = [(kind.strip(), parameter) for kind, parameter in parameters]
    fallible = 'guix_offload_status' in result
    if fallible:
        assert parameters.pop() == ('guix_offload_error **', 'error'), name
    arguments = [good(name, *parameter) for parameter in parameters]
    variants = [arguments[:i] + [value] + arguments[i + 1:]
                for i, parameter in enumerate(parameters) for value in bad(name, *parameter)]
    if name.endswith('_free'):
        variants = [['NULL']] * 2
    if not variants:
        assert not parameters, name
        variants = [[]]
    for variant in variants:
        call = ', '.join(variant)
        calls.append(f'    REJECTS({name}, {call});' if fallible else f'    (void) {name}({call});')

fields = [f'    {kind}{name};' for name, kind in outputs.items()]

print(f'''/* Made by arguments.py: {len(calls)} calls of {len(functions)} functions.  */
#include "world.h"

static struct {{
{chr(10).join(fields)}
}} out;

static struct {{
    guix_offload_engine *engine;
    guix_offload_machines *machines;
    guix_offload_machine *machine;
    guix_offload_request *request;
    guix_offload_cancellation *cancellation;
    guix_offload_hook *hook;
    guix_offload_job *job;
    guix_offload_event *event;
    guix_offload_report *report;
    guix_offload_refusals *refusals;
    guix_offload_error *error;
}} given;

static void every_argument_that_is_wrong(void)
{{''')
print('\n'.join(calls))
print('''}

int main(void)
{
    int threads = threads_before(), descriptors = DESCRIPTORS();
    struct world world = new_world(FULL);
    struct world away = new_world(CLOSED);
    int32_t reply;
    guix_offload_lease *none = NULL;
    given.engine = world.engine;
    given.machines = world.machines;
    given.request = world.request;
    SUCCEEDS(guix_offload_machine_new, &given.machine, "m", "x86_64-linux", "u", HOST_KEY);
    SUCCEEDS(guix_offload_cancellation_new, &given.cancellation);
    SUCCEEDS(guix_offload_hook_new, &given.hook, given.engine);
    SUCCEEDS(guix_offload_farm_status, &given.report, away.engine, away.machines);
    CHECK(guix_offload_machine_set_port(given.machine, 0, &given.error) == GUIX_OFFLOAD_INVALID_ARGUMENT);
    SUCCEEDS(guix_offload_choose_explained, &none, &reply, &given.refusals, away.engine, away.machines, away.request,
             NULL);
    SUCCEEDS(guix_offload_job_start, &given.job, &reply, given.engine, given.machines, given.request);
    while ((given.event = guix_offload_job_next_event(given.job)) == NULL)
        pause_ms(1);
    memset(&out, 0x5a, sizeof out);
    unsigned char before[sizeof out];
    memcpy(before, &out, sizeof out);
    RUN(every_argument_that_is_wrong);
    CHECK(memcmp(before, &out, sizeof out) == 0);
    guix_offload_event_free(given.event);
    guix_offload_job_free(given.job);
    guix_offload_error_free(given.error);
    guix_offload_refusals_free(given.refusals);
    guix_offload_report_free(given.report);
    guix_offload_hook_free(given.hook);
    guix_offload_cancellation_free(given.cancellation);
    guix_offload_machine_free(given.machine);
    free_world(&away);
    free_world(&world);
    await_threads(threads);
    CHECK(DESCRIPTORS() == descriptors);
    return 0;
}''')
