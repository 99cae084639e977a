#include <cstdio>
#include <functional>

#include "launch/backend.hpp"
#include "launch/cluster_file.hpp"
#include "launch/commands.hpp"
#include "launch/handshake.hpp"
#include "launch/probe_cluster.hpp"
#include "launch/process.hpp"
#include "launch/run_setup.hpp"
#include "runtime/checkpoint/file.hpp"
#include "runtime/core/text.hpp"

namespace plimsoll {
namespace {

// The configuration whose mesh is measured; the default one without a file.
Config probed_config(const ConfigArguments& arguments, int ranks) {
  if (arguments.path.empty()) {
    require(arguments.overrides.empty(), ErrorKind::Usage, "--set changes a configuration: plimsoll probe CONFIG");
    return {};
  }
  Config config = load_config(arguments.path, arguments.overrides);
  require(!config.parallel.automatic, ErrorKind::Config, "{}: is auto, but a probe needs the mesh that it measures",
          key_place(config, "parallel"));
  check_for_ranks(config, ranks);
  return config;
}

// Without a configuration, every rank is a replica.
Mesh probed_mesh(const ProbeArguments& arguments, const Config& config, int ranks) {
  if (!arguments.config.path.empty()) return choose_mesh(config, ranks);
  Mesh mesh;
  mesh.data = mesh.shards = ranks;
  return mesh;
}

std::string comment_of(const ClusterDescription& cluster, const Mesh& mesh, const Backend& backend,
                       const std::string& guess) {
  std::string comment =
      fmt::format("# Measured by plimsoll probe on {} rank(s), {} of a host: data {} x pipeline {} x tensor {}.\n",
                  mesh.ranks(), cluster.devices_per_node, mesh.data, mesh.pipeline, mesh.tensor);
  if (backend.transports) comment += fmt::format("# Messages by {}.\n", backend.transports->text());
  comment += fmt::format("# Not measured: kernel_overhead_s and the latency of host; peak is {}.\n",
                         backend.peak == PrecisionRates{} ? "the rate of matrix products" : "that of the data sheet");
  return guess.empty() ? comment : comment + fmt::format("# {}.\n", guess);
}

// --largest auto ends a table where an operation takes longer. The latency of a link that is worth training over is a
// thousandth of that, so twice the bytes take twice the time, as tables assume beyond their end; and since the next
// size is measured at most ten times (warmed up and repeated, in a row), no operation of a link takes more than some
// ten seconds.
constexpr double kLongestMessage_s = 0.25;

// Sizes that lie between those of the table, from where bandwidth counts.
constexpr std::int64_t kLeastChecked = std::int64_t{3} << 19;

void tell_errors(const LinkErrors& errors) {
  for (const auto& [link, error] : errors.tables) {
    fmt::print("{:<9}{:<15}{} sizes from {} on, measured again: median error {:.1f} %\n", link.axis,
               to_text(link.operation), link.bytes.size(), format_bytes(link.bytes.front()), 100 * error);
  }
  fmt::print("all of them: median error {:.1f} %\n", 100 * errors.median);
}

void tell_slowdowns(const std::vector<MeasuredLink>& links) {
  for (const MeasuredLink& link : links) {
    if (link.slows > 0)
      fmt::print("{:<9}{:<15}takes {:.0f} % of the work beside it\n", link.axis, to_text(link.operation),
                 100 * link.slows);
  }
}

}  // namespace

int command_probe(const ProbeArguments& a, const MpiSession& mpi) {
  ProbeOptions options;
  const bool automatic = a.largest == "auto";
  if (automatic) options.longest_s = kLongestMessage_s;
  const std::optional<std::int64_t> largest = automatic ? options.largest_bytes : parse_bytes(a.largest);
  require(largest && *largest >= options.least_bytes, ErrorKind::Usage, "--largest '{}': is not a size of at least {}",
          a.largest, format_bytes(options.least_bytes));
  options.largest_bytes = *largest;
  require(!a.check || *largest >= kLeastChecked, ErrorKind::Usage, "--check with --largest '{}': needs at least {}",
          a.largest, format_bytes(kLeastChecked));
  Place place{mpi.rank(), mpi.size(), mpi.local_rank(), mpi.local_size()};
  Config config = probed_config(a.config, place.ranks);
  const Mesh mesh = probed_mesh(a, config, place.ranks);
  const Group control = mpi.world("control");
  agree(control, config);
  place.cores = cores_of_rank(control);
  const int threads = choose_threads(config, place);
  Backend backend = make_backend(config, place, control, threads);
  Groups groups = make_groups(mesh, place.rank, [&](const std::string& axis, const std::vector<int>& ranks) {
    return mpi.group(axis, ranks, config.comm.collectives == CollectiveSource::Mpi, transport_over(backend));
  });
  std::unique_ptr<Stream> messages;
  if (backend.transports) {
    messages = backend.device->make_stream(StreamKind::Communication);
    options.on = {backend.device.get(), messages.get()};
  }
  const bool tells = place.rank == 0 && !a.out.empty();
  ClusterDescription cluster;
  cluster.devices_per_node = static_cast<std::int64_t>(control.max(place.local_ranks));
  cluster.measured = measure_links(control, mesh, groups, options, [&](const MeasuredLink& link) {
    if (tells) fmt::print("{}\n", to_text(link));
    std::fflush(stdout);
  });
  if (a.check) {
    options.least_bytes = kLeastChecked;
    const std::vector<MeasuredLink> again = measure_links(control, mesh, groups, options);
    if (tells) tell_errors(link_errors(cluster.measured, again));
  }
  // After the links: threads that compute once go on looking for work, beside the messages.
  measure_slowdowns(control, groups, backend, threads, options.on, cluster.measured);
  if (tells) tell_slowdowns(cluster.measured);
  cluster.device = measure_device(control, backend, threads);
  if (backend.transports) backend.transports->close();
  const std::string guess = fit_links(cluster, mesh, hosts_of(control));
  if (place.rank != 0) return 0;
  const std::string text = write_cluster(cluster, comment_of(cluster, mesh, backend, guess));
  if (!tells) {
    fmt::print("{}", text);
    return 0;
  }
  replace_file(a.out, text);
  if (!guess.empty()) fmt::print("{}\n", guess);
  fmt::print("{}: written, for plan --cluster and comm.cluster\n", a.out);
  return 0;
}

}  // namespace plimsoll
