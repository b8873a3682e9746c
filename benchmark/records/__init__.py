"""Result files and leaderboard submissions."""
