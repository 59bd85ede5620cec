from preparation.videos.homography import main

if __name__ == "__main__":
    main()
