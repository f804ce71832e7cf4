// How the key heads of a call are dealt out to threads.
//
//   few heads     one team of all threads: the same heads for all, a phase after another, each a parallel loop over
//                 blocks or slices
//   many heads    teams of one thread: each serves a head at a time through all its phases, with scratch of its own.
//   One
//                 parallel loop a call, where phases would be thousands: with two threads that sleep while they wait,
//                 2,000 × 8 heads of 16 tokens took 100 times as long as with one
//
// An engine serves any run of heads and reads nothing of this; which of the two it is shows in no result.
#pragma once

#include "csq/detail/base/blocks.hpp"
#include "csq/detail/base/parallel.hpp"
#include "csq/detail/call/problem.hpp"

namespace CSQ_CODE::detail {

// Deals out `threads` for a call of that many multiply-adds.
template <class T>
void form_teams(Problem<T>& problem, double multiply_adds, const Threads& threads) {
  constexpr Index many = 16;          // heads a thread: the last ones cost a sixteenth at most
  constexpr Index enough = 2;         // the same where waiting costs more than heads that do not deal out evenly:
  constexpr double short_head = 2e6;  // multiply-adds, less than a millisecond
  const Index heads = problem.key_heads();
  const bool apart =
      threads > 1 && (heads >= many * threads ||
                      (heads >= enough * threads && multiply_adds < short_head * static_cast<double>(heads)));
  problem.teams = apart ? threads : Threads{};
  problem.threads = apart ? Threads{} : threads;
}

// The scratch of each team. Scratch has its layout from one team's problem, and says how many heads it serves at a
// time.
template <class Scratch>
struct HeadTeams {
  Threads count;
  Scratch* each = nullptr;

  template <class T, class AnyProblem>
  static HeadTeams lay_out(Arena& arena, const Problem<T>& problem, const AnyProblem& argument) {
    HeadTeams teams;
    teams.count = problem.teams;
    teams.each = take_each<Scratch>(arena, teams.count, [&] { return Scratch::lay_out(arena, argument); });
    return teams;
  }

  // serve(scratch, first head, heads) for all heads.
  template <class Serve>
  void serve(Index heads, const Serve& serve_some) const {
    const Index in_flight = each[0].heads;
    parallel_for(block_count(heads, in_flight), count, [&](Index task, int team) {
      const Index first = task * in_flight;
      serve_some(each[team], first, smaller(in_flight, heads - first));
    });
  }
};

// The same of a backward call, and the terms of the gradient of the shift or the sinks: so many a key head, summed in
// order when all heads are done.
template <class Scratch>
struct BackwardHeadTeams {
  HeadTeams<Scratch> teams;
  double* parameter_terms = nullptr;
  Index parameter_term_count = 0;
};

template <class Scratch, class T>
HeadTeams<Scratch> lay_out_teams(Arena& arena, const Problem<T>& problem) {
  return HeadTeams<Scratch>::lay_out(arena, problem, problem);
}
template <class Scratch, class T>
BackwardHeadTeams<Scratch> lay_out_teams(Arena& arena, const BackwardProblem<T>& problem) {
  BackwardHeadTeams<Scratch> result;
  result.parameter_term_count =
      checked_product(problem.forward.key_heads(), Scratch::parameter_terms(problem), "workspace");
  result.parameter_terms = arena.template take<double>(result.parameter_term_count);
  result.teams = HeadTeams<Scratch>::lay_out(arena, problem.forward, problem);
  return result;
}

}  // namespace CSQ_CODE::detail
