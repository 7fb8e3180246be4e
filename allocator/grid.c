/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bucket grid: rising upper edges of input and output sizes, and how it is read and written.
 *
 * The default edges are those of the Melange paper (arXiv 2404.14527).  Runs on any thread.  It
 * holds no shares: those belong to the workload.
 */
#include "allocator/workload_parts.h"

#include "base/alloc.h"
#include "base/limits.h"
#include "base/options.h"
#include "profiles/field.h"

#include <string.h>

const double MED_EDGES_INPUT[] = {25, 100, 250, 500, 1000, 2000, 4000, 8000, 12000, 16000};
const size_t MED_EDGES_INPUT_COUNT = sizeof MED_EDGES_INPUT / sizeof MED_EDGES_INPUT[0];
const double MED_EDGES_OUTPUT[] = {25, 100, 250, 500, 1000, 2000};
const size_t MED_EDGES_OUTPUT_COUNT = sizeof MED_EDGES_OUTPUT / sizeof MED_EDGES_OUTPUT[0];

int med_grid_row(const double *edges, size_t edge_count, double tokens)
{
    size_t low = 0;
    size_t high = edge_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (edges[middle] < tokens) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < edge_count ? (int)low : -1;
}

static int copy_edges(const double *from, size_t count, double **ret_to)
{
    double *to = med_calloc(count == 0 ? 1 : count, sizeof *to);
    if (to == NULL) {
        return MED_E_NOMEM;
    }
    memcpy(to, from, count * sizeof *to);
    *ret_to = to;
    return 0;
}

static int copy_grid(const double *input, size_t input_count, const double *output,
                     size_t output_count, struct med_grid *ret_to)
{
    struct med_grid to = {.input_edge_count = input_count, .output_edge_count = output_count};
    if (copy_edges(input, input_count, &to.input_edges) < 0 ||
        copy_edges(output, output_count, &to.output_edges) < 0) {
        med_grid_release(&to);
        return MED_E_NOMEM;
    }
    *ret_to = to;
    return 0;
}

int med_grid_copy(const struct med_grid *from, struct med_grid *ret_to)
{
    return copy_grid(from->input_edges, from->input_edge_count, from->output_edges,
                     from->output_edge_count, ret_to);
}

int med_grid_init_default(struct med_grid *grid)
{
    return copy_grid(MED_EDGES_INPUT, MED_EDGES_INPUT_COUNT, MED_EDGES_OUTPUT,
                     MED_EDGES_OUTPUT_COUNT, grid);
}

void med_grid_release(struct med_grid *grid)
{
    if (grid == NULL) {
        return;
    }
    med_free(grid->input_edges);
    med_free(grid->output_edges);
    *grid = (struct med_grid){0};
}

int med_grid_parse_edges(const char *text, const char *what, double **ret_edges, size_t *ret_count,
                         struct med_err *err)
{
    double edges[MED_LIMIT_EDGES];
    size_t count = 0;
    for (const char *from = text;;) {
        char item[32];
        size_t bytes = strcspn(from, ",");
        if (count == MED_LIMIT_EDGES) {
            return med_err_set(err, MED_E_INVALID, "%s: found more than %d edges, expected fewer",
                               what, MED_LIMIT_EDGES);
        }
        if (bytes >= sizeof item) {
            return med_err_set(err, MED_E_INVALID,
                               "%s: found an edge of %zu characters, expected less than %zu", what,
                               bytes, sizeof item);
        }
        memcpy(item, from, bytes);
        item[bytes] = '\0';
        int rc = med_parse_number(item, what, 1, MED_LIMIT_PROMPT_TOKENS, &edges[count], err);
        if (rc < 0) {
            return rc;
        }
        if (count > 0 && edges[count] <= edges[count - 1]) {
            return med_err_set(err, MED_E_INVALID, "%s: found %g after %g, expected rising edges",
                               what, edges[count], edges[count - 1]);
        }
        count++;
        if (from[bytes] == '\0') {
            break;
        }
        from += bytes + 1;
    }
    double *copy = NULL;
    if (copy_edges(edges, count, &copy) < 0) {
        return med_field_no_memory(err);
    }
    *ret_edges = copy;
    *ret_count = count;
    return 0;
}

static int read_edges(const struct med_json_at *at, const char *key, double **ret_edges,
                      size_t *ret_count, struct med_err *err)
{
    static const struct med_field_bounds bounds = {1, MED_LIMIT_EDGES, sizeof(double)};
    struct med_json_at array;
    struct med_json_at item = {0};
    void *items = NULL;
    int rc = med_field_array(at, key, &bounds, &array, &items, err);
    if (rc < 0) {
        return rc;
    }
    double *edges = items;
    *ret_edges = edges;
    *ret_count = med_json_count(&array);
    size_t index = 0;
    for (size_t i = 0; med_json_next(&array, &index, &item, NULL); i++) {
        rc = med_json_number_here(&item, 1, MED_LIMIT_PROMPT_TOKENS, &edges[i], err);
        if (rc < 0) {
            return rc;
        }
        if (i > 0 && edges[i] <= edges[i - 1]) {
            return med_json_fail(&item, NULL, err, "found %g after %g, expected rising edges",
                                 edges[i], edges[i - 1]);
        }
    }
    return 0;
}

int med_grid_read(const struct med_json_at *at, struct med_grid *grid, struct med_err *err)
{
    int rc = read_edges(at, "input_edges", &grid->input_edges, &grid->input_edge_count, err);
    if (rc < 0) {
        return rc;
    }
    return read_edges(at, "output_edges", &grid->output_edges, &grid->output_edge_count, err);
}

static void write_edges(struct med_json_writer *w, const char *key, const double *edges,
                        size_t count)
{
    med_json_begin_row_array(w, key);
    for (size_t i = 0; i < count; i++) {
        med_json_put_number(w, NULL, edges[i]);
    }
    med_json_end_array(w);
}

void med_grid_write(struct med_json_writer *w, const struct med_grid *grid)
{
    write_edges(w, "input_edges", grid->input_edges, grid->input_edge_count);
    write_edges(w, "output_edges", grid->output_edges, grid->output_edge_count);
}
