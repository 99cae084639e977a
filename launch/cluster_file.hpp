#pragma once
// Descriptions of clusters (configs/clusters, and what `plimsoll probe` writes) in YAML.

#include <string>

#include "runtime/plan/cluster.hpp"

namespace plimsoll {

// Reads a file; every key but `measured` must be there. Throws one Error(Config) with a line `file:line:column: what`
// for every fault, Error(MissingInput) when the file cannot be read.
ClusterDescription load_cluster(const std::string& path);
// The same for a text; `name` stands for the file in errors.
ClusterDescription parse_cluster(const std::string& yaml, const std::string& name);
// The text of a file that load_cluster() reads back; `comment`: whole lines that it begins with.
std::string write_cluster(const ClusterDescription& cluster, const std::string& comment);

}  // namespace plimsoll
