/* mpi_train.c - trains one classifier on several machines, and attacks it there, by MPI:
 *
 *     make -C examples mpi
 *     mpirun -n 4 examples/bin/mpi_train --method rnn-adv --checkpoint c.l2l --attack pgd,mim
 *
 * Every rank takes a part of each batch; with --micro-batch N and any number of ranks the bits are
 * those of one process with it. mpi_train --help lists the flags. */
#include "cli.h"

#include <mpi.h>

#include "specs.h"
#include "training.h"
#include "training_log.h"

enum { MOST_ATTACKS = 20 };

static struct {
    const char *dataset, *data, *arch, *method, *opt, *schedule, *init, *save, *save_maximizer;
    const char *checkpoint, *log, *attack;
    int depth, epochs, batch, micro_batch, steps, val, threads, limit, test_limit, checkpoint_steps;
    double width, eps, eps_warmup, lr, beta;
    uint64_t seed;
    bool resume;
} set;

static int rank, ranks;

/* Rank 0 alone writes, where it is: other machines may lack the folders. */
static void check_outputs(void)
{
    const cli_file outputs[] = {
        {"save", set.save}, {"save-maximizer", set.save_maximizer},
        {"checkpoint", set.checkpoint}, {"log", set.log}};
    const cli_file inputs[] = {{"init", set.init}, {NULL, NULL}};
    if (rank == 0) cli_check_outputs(outputs, (int)(sizeof outputs / sizeof *outputs), inputs);
}

static void parse(int argc, char **argv)
{
    const cli_flag flags[] = {
        {"dataset", CLI_CHOICE, &set.dataset, 0, 0, CLI_DATASETS, "images, the same on all ranks"},
        {"data", CLI_TEXT, &set.data, 0, 0, "DIR", "its files; else where datasets.sh puts them"},
        {"arch", CLI_CHOICE, &set.arch, 0, 0, CLI_ARCHS, "the classifier"},
        {"width", CLI_NUMBER, &set.width, 0, 64, NULL, "multiplies its channels; 0: as it is"},
        {"depth", CLI_INTEGER, &set.depth, 0, 1000, NULL, "of wrn; 0: as it is"},
        {"method", CLI_CHOICE, &set.method, 0, 0, TRAINING_METHODS, "of training"},
        {"epochs", CLI_INTEGER, &set.epochs, 0, 100000, NULL, "passes over the images; 0: none"},
        {"batch", CLI_INTEGER, &set.batch, 1, 65536, NULL, "images in a step, of all ranks"},
        {"micro-batch", CLI_INTEGER, &set.micro_batch, 0, 65536, NULL,
         "images of a part, of which a rank takes every R-th; 0: batch/ranks"},
        {"eps", CLI_NUMBER, &set.eps, 0, 1, NULL,
         "radius of the l-infinity ball [digits, clothes 0.3; photographs 8/255]"},
        {"steps", CLI_INTEGER, &set.steps, 1, 1000, "T", "inner steps"},
        {"eps-warmup", CLI_NUMBER, &set.eps_warmup, 0, 1, NULL,
         "share of the training in which eps rises from 0"},
        {"lr", CLI_NUMBER, &set.lr, 0, 1000, NULL, "rate of theta; 0: adam 0.001, sgd 0.1"},
        {"opt", CLI_CHOICE, &set.opt, 0, 0, "sgd|adam", "optimizer of theta"},
        {"schedule", CLI_CHOICE, &set.schedule, 0, 0, "constant|cosine", "of the rate"},
        {"beta", CLI_NUMBER, &set.beta, 0, 1e6, NULL,
         "weight of KL in trades, rnn-trades [digits, clothes 1; photographs 6]"},
        {"val", CLI_INTEGER, &set.val, 0, 1e6, NULL, "images held out and attacked every epoch"},
        {"seed", CLI_SEED, &set.seed, 0, 0, NULL, "of every random number"},
        {"threads", CLI_INTEGER, &set.threads, 0, 1024, NULL, "of a rank; 0: all that there are"},
        {"limit", CLI_INTEGER, &set.limit, 0, 1e9, NULL, "train on the first N images; 0: all"},
        {"init", CLI_TEXT, &set.init, 0, 0, "F", "model file to start from"},
        {"save", CLI_TEXT, &set.save, 0, 0, "F", "file for the trained model (safetensors)"},
        {"save-maximizer", CLI_TEXT, &set.save_maximizer, 0, 0, "F", "file for the maximizer"},
        {"checkpoint", CLI_TEXT, &set.checkpoint, 0, 0, "F",
         "file that rank 0 writes every epoch and when a rank is stopped by a signal"},
        {"checkpoint-steps", CLI_INTEGER, &set.checkpoint_steps, 0, 1e9, NULL,
         "write it every N steps, too; 0: no"},
        {"resume", CLI_SWITCH, &set.resume, 0, 0, NULL,
         "go on from the checkpoint, which all ranks read; their number may be another"},
        {"log", CLI_TEXT, &set.log, 0, 0, "F.jsonl", "file for a line of JSON each step"},
        {"attack", CLI_TEXT, &set.attack, 0, 0, "SPEC[,SPEC...]",
         "then attack the test images, see evaluate --help; no l2lda, transfer, targets"},
        {"test-limit", CLI_INTEGER, &set.test_limit, 0, 1e9, NULL, "the first N of them; 0: all"},
        {NULL, CLI_SWITCH, NULL, 0, 0, NULL, NULL},
    };
    const l2l_train_options t = l2l_train_default();
    const char *idle;
    set.dataset = "embedded";
    set.arch = "smallcnn";
    set.method = "rnn-adv";
    set.opt = "adam";
    set.schedule = "constant";
    set.epochs = t.epochs;
    set.batch = t.batch;
    set.steps = t.T;
    set.eps = -1;
    set.eps_warmup = t.epsilon_warm_up;
    set.beta = -1; /* not said */
    cli_parse(argc, argv, "Trains a classifier by several MPI ranks.", flags);
    set.eps = cli_default_epsilon(set.eps, set.dataset);
    set.beta = training_beta(set.beta, set.dataset);
    if (set.resume && !set.checkpoint) cli_fail("--resume needs --checkpoint F");
    if (cli_given(argc, argv, flags, "checkpoint-steps") && !set.checkpoint)
        cli_fail("--checkpoint-steps needs --checkpoint F");
    if (cli_given(argc, argv, flags, "test-limit") && !set.attack)
        cli_fail("--test-limit needs --attack SPEC");
    if (cli_given(argc, argv, flags, "beta") && !cli_listed("trades|rnn-trades", set.method,
                                                            strlen(set.method)))
        cli_fail("--beta: not for --method %s; it is for trades|rnn-trades", set.method);
    if ((idle = cli_given(argc, argv, flags, "steps|eps-warmup")) && !strcmp(set.method, "plain"))
        cli_fail("--%s: not for --method plain; it is for the others", idle);
    if (set.save_maximizer && strncmp(set.method, "rnn", 3))
        cli_fail("--save-maximizer: --method %s has no learned maximizer", set.method);
    check_outputs();
}

/* ---- the one function that the header needs ---- */

static struct {
    double seconds;
    long calls, bytes; /* that left this rank */
    bool failed;
} traffic;

/* MPI ends all ranks itself when it finds that one is gone; what it returns of other errors is for
 * the header, which then ends this rank's training. */
static bool exchange(void *user, const void *to, void *from, size_t bytes)
{
    double begin = cli_seconds();
    (void)user;
    traffic.failed = MPI_Alltoall(to, (int)bytes, MPI_BYTE, from, (int)bytes, MPI_BYTE,
                                  MPI_COMM_WORLD) != MPI_SUCCESS;
    traffic.seconds += cli_seconds() - begin;
    traffic.calls++;
    traffic.bytes += (long)bytes * (ranks - 1);
    return !traffic.failed;
}

/* ---- training ---- */

static int64_t steps_made;

static bool progress(void *user, const l2l_progress *p)
{
    (void)user;
    steps_made++;
    if (rank == 0 && p->epoch_ended) {
        printf("epoch %2d/%d  loss %.4f  accuracy %5.1f %%", p->epoch + 1, p->epochs, p->epoch_loss,
               100 * p->epoch_accuracy);
        if (p->validation_natural >= 0)
            printf("  held out: natural %5.1f %%, robust %5.1f %%", 100 * p->validation_natural,
                   100 * p->validation_robust);
        putchar('\n');
        fflush(stdout);
    }
    return !cli_stopped;
}

static l2l_train_options make_options(l2l_learned *phi)
{
    l2l_train_options o = l2l_train_default();
    o.method = training_method(set.method, phi, set.beta);
    o.epochs = set.epochs;
    o.batch = set.batch;
    o.micro_batch = set.micro_batch;
    o.epsilon = set.eps;
    o.T = set.steps;
    o.epsilon_warm_up = set.eps_warmup;
    o.optimizer = training_optimizer(set.opt, set.lr);
    if (!strcmp(set.schedule, "cosine")) o.schedule.kind = L2L_COSINE;
    o.augment = training_augment(set.dataset, cli_photographs(set.dataset));
    o.validation = set.val;
    o.seed = set.seed;
    o.progress = progress;
    o.checkpoint = set.checkpoint;
    o.checkpoint_steps = set.checkpoint_steps;
    o.resume = set.resume;
    o.rank = rank;
    o.ranks = ranks;
    o.exchange = exchange;
    return o;
}

/* All ranks come here with the same error, of which one tells. Once a step is made, no error keeps
 * anybody from saving what was trained until then. */
static int explain(l2l_context *c)
{
    const char *text = l2l_error_text(c);
    const bool stopped = cli_stopped && l2l_error(c) == L2L_ERROR_CANCELLED;
    if (rank == 0 || traffic.failed)
        fprintf(stderr, "%s: rank %d: %s (%s)\n", cli_program, rank, text,
                l2l_status_name(l2l_error(c)));
    if (rank == 0 && set.resume && strstr(text, "micro_batch is"))
        fprintf(stderr, "  the parts decide how sums are rounded: go on with the --micro-batch of the "
                        "file, on any number of ranks\n");
    if (traffic.failed) MPI_Abort(MPI_COMM_WORLD, 1);
    if (steps_made && l2l_error(c) != L2L_ERROR_CANCELLED) l2l_error_clear(c);
    return stopped ? 128 + (int)cli_stopped : 1;
}

static int train(l2l_context *c, l2l_model *m, l2l_learned *phi, const l2l_dataset *d)
{
    l2l_train_options o = make_options(phi);
    training_log log;
    l2l_trainer *t;
    double begin = cli_seconds(), made;
    int status;
    training_log_add(&log, c, set.log, &o);
    t = l2l_trainer_create(m, d, &o);
    if (!t) die(c); /* which ends the other ranks, too */
    cli_catch(SIGINT); /* mpirun hands them on to all ranks; the first that comes by one stops all */
    cli_catch(SIGTERM);
    cli_catch(SIGUSR1);
    status = training_log_train(&log, t) ? 0 : explain(c);
    made = steps_made ? (double)steps_made : 1;
    if (rank == 0 && !status)
        printf("%ld steps in %s; for each, of rank 0: %.1f exchanges, %.3f MB sent, %.3f s in them\n",
               (long)steps_made, cli_duration(cli_seconds() - begin).text,
               (double)traffic.calls / made, (double)traffic.bytes / made / 1e6,
               traffic.seconds / made);
    l2l_trainer_free(t);
    return status;
}

/* ---- evaluation: a slice of the images on each rank ---- */

static spec specs[MOST_ATTACKS];
static int n_specs;

/* The attacks: before the training, so that nothing is wrong with them after it, and behind it, when
 * phi knows with how many steps it was trained. */
static void read_attacks(l2l_learned *phi)
{
    int i;
    spec_defaults.eps = set.eps;
    spec_defaults.l2 = cli_default_epsilon(-1, set.dataset) < 0.1 ? 0.5 : 2;
    spec_defaults.seed = set.seed;
    spec_defaults.phi = phi;
    spec_defaults.no_phi = "needs --method rnn-adv or rnn-trades";
    spec_defaults.no_generator = "is for evaluate";
    n_specs = spec_list(set.attack, specs, MOST_ATTACKS);
    for (i = 0; i < n_specs; i++)
        if (specs[i].transfer || specs[i].target != SPEC_UNTARGETED)
            cli_fail("--attack %s: transfer and targets are for evaluate", specs[i].spec);
}

/* Images number `first` to before `end` of all, which attacks number so, too: their random numbers
 * go by that, and every verdict is that of one process. */
static void evaluate_slice(l2l_model *m, const l2l_dataset *all, int first, int end, long *counts)
{
    l2l_context *c = l2l_model_context(m);
    l2l_evaluation_options o = l2l_evaluation_default();
    cli_slice s;
    l2l_dataset d = cli_slice_of(&s, all, first, end);
    l2l_evaluation e;
    int i;
    o.epsilon = set.eps;
    if (!l2l_evaluation_begin(m, &d, &o, &e)) die(c);
    counts[0] = lround(e.natural * e.images);
    for (i = 0; i < n_specs; i++) {
        l2l_attack room[AUTOATTACK_STAGES];
        l2l_result r;
        specs[i].attack.first = (uint32_t)first;
        if (!l2l_evaluation_series(&e, spec_series(&specs[i], m, room), &r, NULL, NULL)) die(c);
        counts[i + 1] = lround(r.accuracy * e.images);
    }
    counts[n_specs + 1] = lround(e.worst * e.images);
    l2l_evaluation_end(&e);
}

static void evaluate(l2l_model *m, const l2l_dataset *d)
{
    long mine[MOST_ATTACKS + 2] = {0}, all[MOST_ATTACKS + 2];
    int images = set.test_limit && set.test_limit < d->count ? set.test_limit : d->count, i;
    int first = (int)((int64_t)images * rank / ranks);
    int end = (int)((int64_t)images * (rank + 1) / ranks);
    if (end > first) evaluate_slice(m, d, first, end, mine);
    MPI_Reduce(mine, all, n_specs + 2, MPI_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank) return;
    printf("%-24s %6ld of %d  %6.2f %%\n", "natural", all[0], images, 100.0 * (double)all[0] / images);
    for (i = 0; i < n_specs; i++)
        printf("%-24s %6ld of %d  %6.2f %%\n", specs[i].spec, all[i + 1], images,
               100.0 * (double)all[i + 1] / images);
    printf("%-24s %6ld of %d  %6.2f %%\n", "worst", all[n_specs + 1], images,
           100.0 * (double)all[n_specs + 1] / images);
}

/* ---- */

/* Rank 0 alone writes, unless training failed; whether it could, all learn. */
static int save(l2l_context *c, const l2l_model *m, const l2l_learned *phi)
{
    int status = 0;
    if (rank == 0 && !l2l_error(c)) {
        if (set.save) l2l_model_save(m, set.save);
        status |= cli_complain(c);
        if (set.save_maximizer) l2l_learned_save(phi, set.save_maximizer);
        status |= cli_complain(c);
    }
    MPI_Bcast(&status, 1, MPI_INT, 0, MPI_COMM_WORLD);
    return status;
}

static l2l_model *make_model(l2l_context *c, const l2l_dataset *d)
{
    l2l_model_options o = cli_architecture(set.arch, set.width, set.depth);
    l2l_model *m;
    int extra;
    training_fit(&o, set.method, d, set.dataset, 0);
    o.seed = set.seed;
    m = l2l_model_create(c, &o);
    if (m && set.init) l2l_model_load(m, set.init, &extra);
    return m;
}

int main(int argc, char **argv)
{
    l2l_learned_options lo = l2l_learned_default();
    l2l_learned *phi = NULL;
    l2l_dataset d, test;
    l2l_context *c;
    l2l_model *m;
    int status = 0;
    bool trained;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    parse(argc, argv);
    c = cli_context(set.threads);
    cli_dataset(c, set.dataset, set.data, true, &d);
    if (set.limit && set.limit < d.count) d.count = set.limit;
    m = make_model(c, &d);
    lo.seed = set.seed;
    if (!strncmp(set.method, "rnn", 3)) phi = l2l_learned_create(c, &lo);
    if (l2l_error(c)) die(c);
    if (set.attack) {
        read_attacks(phi);
        cli_dataset(c, set.dataset, set.data, false, &test);
    }
    if (rank == 0) {
        printf("%d ranks, each %s\n", ranks, l2l_describe(c));
        printf("%s, %ld parameters, %s, batch %d in parts of %d\n", set.arch, (long)l2l_model_size(m),
               set.method, set.batch, set.micro_batch ? set.micro_batch : (set.batch - 1) / ranks + 1);
        fflush(stdout);
    }
    if (set.epochs) status = train(c, m, phi, &d);
    trained = !status;
    status |= save(c, m, phi);
    l2l_dataset_free(&d);
    if (trained && set.attack) {
        read_attacks(phi);
        evaluate(m, &test);
    }
    if (set.attack) l2l_dataset_free(&test);
    l2l_learned_free(phi);
    l2l_model_free(m);
    l2l_context_free(c);
    MPI_Finalize();
    return cli_end() ? 1 : status;
}
